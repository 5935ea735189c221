# SPDX-License-Identifier: GPL-2.0-or-later
"""The code that a thread may be in: which call frame information says how it is unwound.

program, libraries     .eh_frame or .debug_frame of the file, or of its separate debug file
the vdso               the same, of the image that the kernel maps into every process
patches                .eh_frame of the image in the target, which the ledger's record leads to
gates                  the rules of the old function, at the place that the gate stands for
"""

from __future__ import annotations

from bisect import bisect_right
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from hotpatch.arch import frames as arch
from hotpatch.arch.sigframe import RESTORERS
from hotpatch.dwarf.cfi import Row
from hotpatch.dwarf.cursor import DwarfError, Read
from hotpatch.dwarf.file import CallFrames
from hotpatch.elf.file import ElfError
from hotpatch.quiescence.rules import signal_row

if TYPE_CHECKING:
    from hotpatch.process import ledger
    from hotpatch.process.image import Process

_SIGNAL_ROW = signal_row()
_LAST = 1 << 32


class _Image(NamedTuple):
    """Code with one source of rules, `bias` beyond the addresses that these use."""

    bias: int
    read: Read
    frames: CallFrames


class Code:
    """The code of a process, as its memory map was when `process` read it."""

    def __init__(self, process: Process) -> None:
        """Prepare; nothing is read before it is needed."""
        self._process = process
        self._images: dict[int, _Image] = {}

    def row(self, pc: int, call: bool) -> Row:
        """Return the rules for a frame with that program counter, a return address if `call`.

        Raises DwarfError, with the reason, where there are none; OSError; Gone.
        """
        found = self._replaced_at(pc)
        if found is not None and not call:
            return self._gate_row(*found)
        image = self._image(pc - call)
        if image is None:
            raise DwarfError("it is in no file that is mapped")
        return _row_in(image, pc, call)

    def _replaced_at(self, pc: int) -> tuple[ledger.Function, int] | None:
        """Return the function whose gate holds `pc`, and the offset in that.

        Where the entry jump goes by way of padding, the jump there is like the gate's front.
        """
        if pc in self._jumps:
            return self._jumps[pc], 0
        at = bisect_right(self._gates, (pc, _LAST)) - 1
        if at < 0:
            return None
        start, number = self._gates[at]
        function = self._functions[number]
        return (function, pc - start) if pc < start + function.gate[1] else None

    @cached_property
    def _functions(self) -> list[ledger.Function]:
        return [function for patch in self._process.patches for function in patch.record.functions]

    @cached_property
    def _gates(self) -> list[tuple[int, int]]:
        """Addresses of gates with the numbers of their functions, sorted."""
        return sorted((f.gate[0], number) for number, f in enumerate(self._functions))

    @cached_property
    def _jumps(self) -> dict[int, ledger.Function]:
        return {write.address: f for f in self._functions for write in f.arm}

    def _gate_row(self, function: ledger.Function, offset: int) -> Row:
        """Return the rules inside a gate: those of the old function, at the place stood for."""
        _, address, lowered = next(f for f in reversed(function.frames) if f[0] <= offset)
        image = self._image(address)
        if image is None:
            raise DwarfError(f"{function.name} is in no file that is mapped")
        row = _row_in(image, address, False)
        if not lowered:
            return row
        if row.cfa.expression is not None or any(r.expression for r in row.rules.values()):
            raise DwarfError("a gate has moved rsp, which its function's rules may need")
        moved = lowered if row.cfa.register == arch.RSP else 0
        return row._replace(cfa=row.cfa._replace(offset=row.cfa.offset + moved))

    def _image(self, address: int) -> _Image | None:
        for patch in self._process.patches:
            if any(start <= address < start + size for start, size in patch.record.code):
                return self._patch(patch)
        module = self._process.code_at(address)
        if module is None:
            return None
        image = self._images.get(module.start)
        if image is None:
            frames = CallFrames.of_file(module.elf, module.debug_file)
            image = self._images[module.start] = _Image(module.bias, module.elf.read, frames)
        return image

    def _patch(self, patch: ledger.Entry) -> _Image:
        image = self._images.get(patch.address)
        if image is None:
            if not patch.record.frames:
                raise DwarfError(f"patch {patch.record.name} has no .eh_frame_hdr")
            read = self._process.read
            image = _Image(0, read, CallFrames.of_image(read, patch.record.frames))
            self._images[patch.address] = image
        return image


def _row_in(image: _Image, pc: int, call: bool) -> Row:
    row = image.frames.row(pc - call - image.bias)
    # Code that calls rt_sigreturn is what it is, even if nothing is said of it.
    if not (row and row.signal) and _code(image, pc, arch.LONGEST_RESTORER).startswith(RESTORERS):
        return _SIGNAL_ROW
    if row is None:
        raise DwarfError("there is no call frame information for it")
    before = pc - arch.LONGEST_CALL
    calls = arch.ends_with_call(_code(image, before, arch.LONGEST_CALL))
    if call and not row.signal and not calls:
        raise DwarfError("there is no call before it")
    return row


def _code(image: _Image, address: int, size: int) -> bytes:
    """Return code, b"" where it ends before."""
    try:
        return image.read(address - image.bias, size)
    except (ElfError, OSError):
        return b""
