# SPDX-License-Identifier: GPL-2.0-or-later
"""Patches of one function on top of each other.

The entry leads to the newest gate, whose old path is the gate before it, down to the original code.
So a patch may be reverted from the middle of a chain: its gate stays, switched off, until
nothing above leads through it.
"""

from __future__ import annotations

from hotpatch.process import ledger
from hotpatch.process.image import Process


def below(process: Process, entry: int) -> tuple[ledger.Function, ...]:
    """Return what patches have done to the function at `entry`, in the order of the chain."""
    found = [f for p in process.patches for f in p.record.functions if f.old == entry]
    by_under = {function.under: function for function in found}
    chain: list[ledger.Function] = []
    at = 0
    while at in by_under and len(chain) < len(found):
        chain.append(by_under[at])
        at = chain[-1].gate[0]
    return tuple(chain)


def above(process: Process, patch: ledger.Entry) -> list[ledger.Entry]:
    """Return the patches whose gates lead through those of `patch`."""
    gates = {function.gate[0] for function in patch.record.functions}
    return [
        other
        for other in process.patches
        if other.address != patch.address and any(f.under in gates for f in other.record.functions)
    ]


def ends_in_call(code: bytes) -> bool:
    """Say whether a function's last instruction may be a call.

    Of a function that doesn't return: the return address then lies just behind this one. Taking an
    immediate for a call costs nothing but caution.
    """
    return code[-5:-4] == b"\xe8" or code[-2:-1] == b"\xff" or code[-6:-4] == b"\xff\x15"
