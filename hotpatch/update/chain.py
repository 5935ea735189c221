# SPDX-License-Identifier: GPL-2.0-or-later
"""Patches of one function on top of each other.

The entry leads to the newest gate, whose old path is the gate before it, down to the original code.
So a patch may be reverted from the middle of a chain: its gate stays, switched off, until
nothing above leads through it.
"""

from __future__ import annotations

from collections.abc import Sequence

from hotpatch.process import ledger
from hotpatch.process.image import Process


def below(process: Process, entry: int) -> tuple[ledger.Function, ...]:
    """Return what patches have done to the function at `entry`, in the order of the chain.

    Where the entry leads is what counts: a patch that was taken out may still be mapped, as
    something refers to it, but the entry leads past it.
    """
    found = [f for p in process.patches for f in p.record.functions if f.old == entry]
    by_gate = {function.gate[0]: function for function in found}
    at = next((f.gate[0] for f in found if is_armed(process, f)), 0)
    chain: list[ledger.Function] = []
    while at in by_gate and len(chain) < len(found):
        chain.insert(0, by_gate[at])
        at = by_gate[at].under
    return tuple(chain)


def above(process: Process, patch: ledger.Entry) -> list[ledger.Entry]:
    """Return the patches in whose chains a function of `patch` is below one of theirs."""
    ours = {function.gate[0]: function.old for function in patch.record.functions}
    found = []
    for other in process.patches:
        theirs = {f.old for f in other.record.functions if f.under in ours}
        if other.address != patch.address and any(
            _leads_through(process, other, e) for e in theirs
        ):
            found.append(other)
    return found


def _leads_through(process: Process, patch: ledger.Entry, entry: int) -> bool:
    gates = {function.gate[0] for function in patch.record.functions}
    return any(function.gate[0] in gates for function in below(process, entry))


def is_armed(process: Process, function: ledger.Function) -> bool:
    """Say whether a function's entry leads to the gate of this patch."""
    return _reads_as_after(process, function.arm)


def is_untouched(process: Process, function: ledger.Function) -> bool:
    """Say whether nothing of a function's redirection is there, not even a part."""
    return _reads_as_after(process, function.disarm)


def _reads_as_after(process: Process, writes: Sequence[ledger.Write]) -> bool:
    """Say whether memory is as a sequence of writes leaves it, later ones over earlier ones."""
    left: dict[int, int] = {}
    for write in writes:
        left.update(enumerate(write.data, write.address))
    first = min(left)
    if max(left) - first < len(left):  # all in one piece, as nearly always
        return process.read(first, len(left)) == bytes(left[a] for a in sorted(left))
    return all(process.read(address, 1)[0] == value for address, value in left.items())


def ends_in_call(code: bytes) -> bool:
    """Say whether a function's last instruction may be a call.

    Of a function that doesn't return: the return address then lies just behind this one. Taking an
    immediate for a call costs nothing but caution.
    """
    return code[-5:-4] == b"\xe8" or code[-2:-1] == b"\xff" or code[-6:-4] == b"\xff\x15"
