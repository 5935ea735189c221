# SPDX-License-Identifier: GPL-2.0-or-later
"""The proofs of the threads of a process, and whether they hold.

Most threads of a process that has many have come one of a few ways to where they are, and stay
there. So there are few shapes; which thread should have which is known before a stop, and is then
seen for many threads in one comparison.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from struct import Struct
from typing import TYPE_CHECKING

from hotpatch.errors import Gone
from hotpatch.linux.memory import Buffer, Memory
from hotpatch.quiescence.proof import Proof, Shape, prove

if TYPE_CHECKING:
    from hotpatch.arch.registers import Registers
    from hotpatch.linux.threads import Thread
    from hotpatch.quiescence.unwind import Unwinder

_AT_ONCE = 1 << 20  # of stacks; to stay in the processor's cache
_MOST_SHAPES = 16  # for one program counter


class _Group:
    """Proofs that are looked at together: one read, and one comparison."""

    def __init__(self, proofs: dict[int, Proof]) -> None:
        self.size = sum(proof.shape.size for proof in proofs.values())
        self._proofs = proofs
        self._pieces = [piece for proof in proofs.values() for piece in proof.pieces]
        self._layout = Struct("<" + "".join(proof.shape.layout for proof in proofs.values()))
        self._words = tuple(word for proof in proofs.values() for word in proof.words)

    def with_words(self, memory: Memory, buffer: Buffer) -> dict[int, Proof]:
        """Return those whose words are in memory."""
        if memory.read_many(self._pieces, buffer) != self.size:  # a stack of them is gone
            alone = [_Group({tid: proof}) for tid, proof in self._proofs.items()]
            return _all_with_words(alone, memory, buffer) if len(alone) > 1 else {}
        data, at = buffer.data, buffer.start
        if self._layout.unpack_from(data, at) == self._words:
            return self._proofs
        found = {}
        for tid, proof in self._proofs.items():
            if proof.has_words(data, at):
                found[tid] = proof
            at += proof.shape.size
        return found


def _all_with_words(groups: Iterable[_Group], memory: Memory, buffer: Buffer) -> dict[int, Proof]:
    found: dict[int, Proof] = {}
    for group in groups:
        found.update(group.with_words(memory, buffer))
    return found


def _grouped(proofs: dict[int, Proof]) -> Iterator[_Group]:
    group: dict[int, Proof] = {}
    size = 0
    for tid, proof in proofs.items():
        if group and size + proof.shape.size > _AT_ONCE:
            yield _Group(group)
            group, size = {}, 0
        group[tid] = proof
        size += proof.shape.size
    if group:
        yield _Group(group)


class Proofs:
    """What is known of the stacks of a process."""

    def __init__(self, memory: Memory) -> None:
        """Begin with nothing."""
        self._memory = memory
        self._buffer = Buffer(_AT_ONCE)
        self.forget()

    def forget(self) -> None:
        """Forget all: the code is another."""
        self._shapes: dict[int, list[Shape]] = {}  # by program counter
        self._proofs: dict[int, Proof] = {}
        self._groups: list[_Group] = []
        self._wanted: set[int] = set()  # threads, in the last stop

    def find(self, threads: Iterable[Thread], unwinder: Unwinder) -> dict[int, Proof]:
        """Return what the frames of threads follow from, and keep it.

        They may be running by now; then what was found will not hold. Raises Gone.
        """
        found = {thread.tid: self._find(thread.registers, unwinder) for thread in threads}
        kept = {tid: proof for tid, proof in self._proofs.items() if tid in self._wanted}
        if not found and len(kept) == len(self._proofs):
            return {}
        proofs = {**kept, **found}
        self._proofs = {tid: proof for tid, proof in proofs.items() if proof is not None}
        self._groups = list(_grouped(self._proofs))
        largest = max((group.size for group in self._groups), default=0)
        if largest > self._buffer.size:
            self._buffer = Buffer(largest)
        return {tid: proof for tid, proof in found.items() if proof is not None}

    def holding(self, threads: Sequence[Thread]) -> dict[int, Proof]:
        """Return those proofs that hold for some stopped threads, by thread."""
        self._wanted = {thread.tid for thread in threads}
        found = _all_with_words(self._groups, self._memory, self._buffer)
        proofs = ((thread, found.get(thread.tid)) for thread in threads)
        return {t.tid: proof for t, proof in proofs if proof and proof.has_registers(t.registers)}

    def by_shape(self, registers: Registers) -> Proof | None:
        """Return a proof that holds for a thread, from what is known of others. Raises Gone."""
        shapes = self._shapes.get(registers.rip, [])
        for number, shape in enumerate(shapes):
            if shape.fits(registers):
                proof = Proof(shape, registers)
                if self._holds(proof):
                    shapes.insert(0, shapes.pop(number))
                    return proof
        return None

    def _holds(self, proof: Proof) -> bool:
        try:
            data = b"".join(self._memory.read(address, size) for address, size in proof.pieces)
        except Gone:
            raise
        except (OSError, OverflowError):  # what it has for a stack pointer may be anything
            return False
        return proof.has_words(data)

    def _find(self, registers: Registers, unwinder: Unwinder) -> Proof | None:
        proof = self.by_shape(registers)
        if proof is not None:
            return proof
        shape = prove(unwinder, registers, self._memory.read)
        if shape is None:
            return None
        if shape.movable:
            shapes = self._shapes.setdefault(shape.pc, [])
            shapes.insert(0, shape)
            del shapes[_MOST_SHAPES:]
        return Proof(shape, registers)
