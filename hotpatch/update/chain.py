# SPDX-License-Identifier: GPL-2.0-or-later
"""Patches of one function on top of each other.

The entry leads to the newest gate, whose old path is the gate before it, down to the original code.
So a patch may be reverted from the middle of a chain: its gate stays, switched off, until
nothing above leads through it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from hotpatch.process import ledger
from hotpatch.process.image import Process


def mapped(process: Process, entry: int) -> list[ledger.Function]:
    """Return what patches have for the function at `entry`, in its chain or only mapped yet."""
    return [f for p in process.patches for f in p.record.functions if f.old == entry]


def below(process: Process, entry: int) -> tuple[ledger.Function, ...]:
    """Return what patches have done to the function at `entry`, in the order of the chain.

    Where the entry leads is what counts: a patch that was taken out may still be mapped, as
    something refers to it, but the entry leads past it.
    """
    found = mapped(process, entry)
    by_gate = {function.gate[0]: function for function in found}
    at = next((f.gate[0] for f in found if is_armed(process, f)), 0)
    chain: list[ledger.Function] = []
    while at in by_gate and len(chain) < len(found):
        chain.insert(0, by_gate[at])
        at = by_gate[at].under
    return tuple(chain)


def above(process: Process, patch: ledger.Entry) -> list[ledger.Entry]:
    """Return the patches in whose chains a function of `patch` is below one of theirs."""
    ours = {function.gate[0] for function in patch.record.functions}
    return [
        other
        for other in built_upon(process, patch)
        if any(
            _leads_through(process, other, f.old) for f in other.record.functions if f.under in ours
        )
    ]


def _leads_through(process: Process, patch: ledger.Entry, entry: int) -> bool:
    gates = {function.gate[0] for function in patch.record.functions}
    return any(function.gate[0] in gates for function in below(process, entry))


def built_upon(process: Process, patch: ledger.Entry) -> list[ledger.Entry]:
    """Return the patches whose gates go on to gates of `patch`, taken out of the chain or not."""
    ours = {function.gate[0] for function in patch.record.functions}
    others = (other for other in process.patches if other.address != patch.address)
    return [o for o in others if any(f.under in ours for f in o.record.functions)]


def is_armed(process: Process, function: ledger.Function) -> bool:
    """Say whether a function's entry leads to the gate of this patch."""
    return _reads_as_one_of(process, [_left_by(function.arm)])


def is_begun(process: Process, function: ledger.Function) -> bool:
    """Say whether a function's entry leads to the gate of this patch, or is on the way to or fro.

    So it is behind any number of writes but none of those that arm it, or all but some of those
    that restore it. Bytes that are not this patch's doing may be those of another one that is
    applied, and are not to be restored.
    """
    arm, disarm = function.arm, function.disarm
    armed = [(*disarm, *arm[:count]) for count in range(1, len(arm) + 1)]
    restored = [(*disarm, *arm, *disarm[:count]) for count in range(1, len(disarm))]
    states, untouched = map(_left_by, armed + restored), _left_by(disarm)
    return _reads_as_one_of(process, [state for state in states if state != untouched])


def _left_by(writes: Iterable[ledger.Write]) -> dict[int, int]:
    """Return the byte at each address behind a sequence of writes, later ones over earlier ones."""
    left: dict[int, int] = {}
    for write in writes:
        left.update(enumerate(write.data, write.address))
    return left


def _reads_as_one_of(process: Process, states: Sequence[dict[int, int]]) -> bool:
    """Say whether memory is in one of some states, which have the same addresses.

    It is in none where a library was closed, and its memory is gone.
    """
    addresses = sorted(states[0])
    try:
        if addresses[-1] - addresses[0] < len(addresses):  # all in one piece, as nearly always
            now = process.read(addresses[0], len(addresses))
        else:
            now = b"".join(process.read(address, 1) for address in addresses)
    except OSError:
        return False
    return any(now == bytes(state[address] for address in addresses) for state in states)


def ends_in_call(code: bytes) -> bool:
    """Say whether a function's last instruction may be a call.

    Of a function that doesn't return: the return address then lies just behind this one. Taking an
    immediate for a call costs nothing but caution.
    """
    return code[-5:-4] == b"\xe8" or code[-2:-1] == b"\xff" or code[-6:-4] == b"\xff\x15"
