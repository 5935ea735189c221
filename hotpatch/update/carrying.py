# SPDX-License-Identifier: GPL-2.0-or-later
"""Planning what carries the state over: which functions of a patch are run, and by what."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from hotpatch.errors import Refused
from hotpatch.patch.manifest import CHECK, KINDS, REVERSE, TRANSFER
from hotpatch.process import ledger
from hotpatch.update.places import CALL_ROOM
from hotpatch.update.result import Step

if TYPE_CHECKING:
    from hotpatch.link.bind import Binding
    from hotpatch.link.image import LinkedImage
    from hotpatch.patch.file import PatchFile
    from hotpatch.process.image import Process
    from hotpatch.update.places import Place

_MOST = 256
# Functions of the C library that neither end a program nor make another of it. A patch that calls
# others is watched closely.
_HARMLESS = frozenset(
    {
        *("calloc", "malloc", "free", "realloc", "qsort", "bsearch", "snprintf", "vsnprintf"),
        *("memcpy", "memmove", "memset", "memcmp", "memchr", "strlen", "strnlen", "strcmp"),
        *("strncmp", "strcpy", "strncpy", "strchr", "strrchr", "strstr", "__memcpy_chk"),
        *("__memset_chk", "__memmove_chk", "__strcpy_chk", "__snprintf_chk", "__vsnprintf_chk"),
        "__cxa_finalize",
    }
)


def steps_of(patch: PatchFile, bias: int, *, reverse: bool) -> tuple[Step, ...]:
    """Return what is run at the commit, checks first, or what is run at a revert."""
    wanted = (REVERSE,) if reverse else (CHECK, TRANSFER)
    return tuple(
        Step(
            KINDS[kind],
            found.name,
            f"{found.file.rpartition('/')[2]}:{found.line}",
            bias + found.value,
        )
        for kind in wanted
        for found in patch.transfers
        if found.kind == kind
    )


def carrying(
    process: Process, patch: PatchFile, place: Place, image: LinkedImage
) -> tuple[ledger.Transfer | None, bytes]:
    """Return what the ledger has to know of it, and the code of the commit program.

    Raises Refused for more functions than there is room for.
    """
    if not patch.transfers or patch.runtime is None:
        return None, b""
    from hotpatch.update.programs import transfer_program  # noqa: PLC0415

    if len(patch.transfers) > _MOST:
        raise Refused(
            f"the patch has {len(patch.transfers)} checks, transfers and reverses",
            f"call them from each other: {_MOST} can be named",
        )
    labels, code = transfer_program(place.call + CALL_ROOM, place.stack)
    runtime = patch.runtime
    return ledger.Transfer(
        start=labels["start"],
        asleep=labels["asleep"],
        handler=labels["handler"],
        restorer=labels["restorer"],
        given_up=labels["given_up"],
        roll_back=labels["roll_back"],
        leave=labels["leave"],
        parking=labels["parking"],
        fails=labels["fails"],
        attended=labels["attended"],
        state=image.bias + runtime.state,
        rollback=image.bias + runtime.rollback,
        settle=image.bias + runtime.settle,
        calls_out=_calls_out(process, image.bindings, {r.symbol for r in patch.replacements}),
        reverse=tuple(
            (step.name, step.address) for step in steps_of(patch, image.bias, reverse=True)
        ),
        carried=any(transfer.kind == TRANSFER for transfer in patch.transfers),
    ), code


def _calls_out(process: Process, bindings: Iterable[Binding], own: set[str]) -> bool:
    """Say whether a patch calls functions of which one might end the program, or fork it."""
    code = [(m.start, m.end) for m in process.mappings if "x" in m.protection]
    return any(
        start <= binding.address < end
        for binding in bindings
        if binding.module and binding.symbol not in _HARMLESS | own
        for start, end in code
    )
