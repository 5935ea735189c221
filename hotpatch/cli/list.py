# SPDX-License-Identifier: GPL-2.0-or-later
"""`hotpatch list [PID]`: the patches in a process, read from the process itself."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

from hotpatch.cli import arguments as options
from hotpatch.cli.arguments import Arguments
from hotpatch.cli.output import Output
from hotpatch.errors import Denied, Gone, HotpatchError
from hotpatch.linux import access, processes, procfs
from hotpatch.process import ledger

OPERANDS = ("[PID]", "--exe PATH", "--all-of PATH")
OPTIONS = (
    options.EXE,
    options.ALL_OF,
    options.JSON,
    options.QUIET,
    options.VERBOSE,
    options.NO_COLOR,
)


class Listing(NamedTuple):
    """What a process has of patches, and how many regions a dead patcher left unfinished."""

    pid: int
    patches: list[ledger.Entry]
    remnants: int


def run(arguments: Arguments, output: Output) -> int:
    """List the patches of a process, or of all."""
    if arguments.operands or arguments.exe or arguments.all_of:
        return _list_chosen(arguments, output)
    listings, hidden = every()
    output.value([_fields(listing) for listing in listings])
    _print(listings, output)
    if hidden:
        processes = "process" if hidden == 1 else "processes"
        output.note(f"{hidden} {processes} could not be looked at")
    return 0


def _list_chosen(arguments: Arguments, output: Output) -> int:
    from hotpatch.cli.failure import failure_of, report  # noqa: PLC0415
    from hotpatch.cli.targets import choose  # noqa: PLC0415

    chosen = choose(arguments, 0, 0, "name one process, or none for all")
    listings = []
    failures = []
    for pid in chosen.pids:
        try:
            listings.append(of_process(pid))
        except HotpatchError as error:
            if not chosen.all_of:
                raise
            failures.append(failure_of(error).having(pid=pid))
    fields = [*map(_fields, listings), *(failure.fields for failure in failures)]
    output.value(fields if chosen.all_of else fields[0])
    _print(listings, output)
    for listing in listings:
        if not listing.patches:
            output.note(f"process {listing.pid} has no patches")
    for failure in failures:
        report(failure, output, f"process {failure.fields['pid']}: ")
    return failures[0].code if failures else 0


def of_process(pid: int) -> Listing:
    """Return what one process has; raises Gone, Denied and Refused.

    The ledger is all that is looked at; a `Process` could tell, and would import all that it takes
    to patch one.
    """
    access.check_kind(pid)
    memory = access.open_memory(pid)
    try:
        patches, remnants = ledger.find(procfs.mappings(pid), memory)
    except (FileNotFoundError, ProcessLookupError):
        raise Gone(f"process {pid} ended") from None
    finally:
        memory.close()
    return Listing(pid, patches, len(remnants))


def every() -> tuple[list[Listing], int]:
    """Return what all processes have, and how many could not be looked at."""
    found = []
    hidden = 0
    for pid in processes.processes():
        try:
            if pid != os.getpid() and processes.maps_contain(pid, ledger.MAPPING.encode()):
                found.append(of_process(pid))
        except (Gone, FileNotFoundError, ProcessLookupError):
            continue  # it ended meanwhile
        except (Denied, PermissionError):
            hidden += 1
        except HotpatchError:
            continue  # it has become something that can't have patches
    return [listing for listing in found if listing.patches or listing.remnants], hidden


def state(patch: ledger.Entry) -> str:
    """Return what a patch is to its process: its switch decides, as it does for the code."""
    if patch.switch == ledger.ON:
        return "applied"
    return "reverted" if patch.state == ledger.REVERTING else "staged"


def applied_at(patch: ledger.Entry) -> str | None:
    """Return when a patch was committed, in ISO 8601 and UTC; None where it never was."""
    if state(patch) == "staged":
        return None
    from time import gmtime, strftime  # noqa: PLC0415

    seconds, rest = divmod(patch.committed_ns, 1_000_000_000)
    return strftime("%Y-%m-%dT%H:%M:%S", gmtime(seconds)) + f".{rest // 1_000_000:03d}Z"


def _fields(listing: Listing) -> dict[str, Any]:
    return {
        "pid": listing.pid,
        "patches": [
            {
                "id": patch.record.id,
                "name": patch.record.name,
                "state": state(patch),
                "functions": [function.name for function in patch.record.replaced],
                "applied_at": applied_at(patch),
            }
            for patch in listing.patches
        ],
    }


def _print(listings: list[Listing], output: Output) -> None:
    """Print a line for each patch, under a heading."""
    from hotpatch.cli.report import SHORT_ID, table  # noqa: PLC0415

    rows = [("PID", "PATCH", "NAME", "STATE", "APPLIED AT", "FUNCTIONS")]
    for listing in listings:
        for patch in listing.patches:
            record = patch.record
            names = [function.name for function in record.replaced]
            shown = names if output.verbose else names[:_MOST_NAMES]
            more = f" and {len(names) - len(shown)} more" if len(names) > len(shown) else ""
            when = applied_at(patch) or "-"
            functions = ", ".join(shown) + more
            rows.append(
                (str(listing.pid), record.id[:SHORT_ID], record.name, state(patch), when, functions)
            )
    if len(rows) > 1:
        output.result("\n".join(table(rows)))
    for listing in listings:
        if listing.remnants:
            output.note(
                f"process {listing.pid} has memory of a hotpatch that died; the next apply or "
                "revert removes it"
            )


_MOST_NAMES = 4
