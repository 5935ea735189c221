# SPDX-License-Identifier: GPL-2.0-or-later
"""`hotpatch transform OLD NEW`: write the state transformers of what changed between two builds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hotpatch.cli import arguments as options
from hotpatch.cli.arguments import Arguments, Option, Usage
from hotpatch.cli.output import Output
from hotpatch.errors import Refused

if TYPE_CHECKING:
    from hotpatch.dwarf.names import Names
    from hotpatch.state.skeleton import Skeleton

OPERANDS = ("OLD NEW",)
OPTIONS = (
    Option(("-o", "--output"), "where to write the C file (default: print it)", "FILE.c"),
    Option(("--type",), "only this type; repeatable", "TYPE", repeat=True),
    options.JSON,
    options.QUIET,
    options.NO_COLOR,
)


def run(arguments: Arguments, output: Output) -> int:
    """Compare two builds and write the file."""
    if len(arguments.operands) != 2:
        raise Usage("name two builds", "hotpatch transform OLD NEW: programs, libraries or objects")
    from hotpatch.dwarf.cursor import DwarfError  # noqa: PLC0415
    from hotpatch.elf.file import ElfError  # noqa: PLC0415
    from hotpatch.state.graph import Graph  # noqa: PLC0415
    from hotpatch.state.skeleton import skeleton  # noqa: PLC0415

    only = frozenset(" ".join(tag.split()) for tag in arguments.type)
    try:
        old, new = (_names(path) for path in arguments.operands)
        graph = Graph(old, new, only)
        if missing := only - set(graph.changes):
            raise Refused(
                f"{', '.join(sorted(missing))} did not change, or is not in both builds",
                "spell it as C does: `struct entry`, or the name of a typedef",
            )
        if not graph.changes:
            output.value({"status": "ok", "types": [], "roots": [], "listed": []})
            output.note("no type that is in both builds has another layout")
            return 0
        made = skeleton(graph)
    except (DwarfError, ElfError) as error:
        raise Refused(f"the debug information can't be read: {error}", "see readelf -w") from error
    _write(arguments, output, made)
    return 0


def _names(path: str) -> Names:
    from hotpatch.build.binary import Binary  # noqa: PLC0415
    from hotpatch.build.objects import Object  # noqa: PLC0415
    from hotpatch.build.view import DebugView  # noqa: PLC0415
    from hotpatch.dwarf.names import Names  # noqa: PLC0415
    from hotpatch.dwarf.types import Types  # noqa: PLC0415
    from hotpatch.elf.constants import ET_REL  # noqa: PLC0415

    try:
        binary = Binary(_program(path))
    except OSError as error:
        raise Refused(f"{path} can't be read: {error.strerror}", "name two builds") from error
    if binary.elf.type == ET_REL:
        return DebugView(Object(path, binary.elf)).names
    for elf in filter(None, (binary.elf, binary.debug)):
        types = Types(elf)
        if types.present:
            return Names(types)
    raise Refused(
        f"{path} has no debug information",
        "compile it with -g, or put its debug file beside it or below /usr/lib/debug",
    )


def _program(path: str) -> str:
    """Return the file of a build; a number is a process."""
    return f"/proc/{path}/exe" if path.isdecimal() else path


def _write(arguments: Arguments, output: Output, made: Skeleton) -> None:
    fields: dict[str, Any] = {
        "status": "ok",
        "path": arguments.output,
        "types": [{"type": filled.tag, **filled.counts._asdict()} for filled in made.types],
        "roots": list(made.roots),
        "listed": list(made.listed),
    }
    if arguments.output:
        try:
            with open(arguments.output, "w", encoding="utf-8") as file:
                file.write(made.text)
        except OSError as error:
            raise Refused(f"{arguments.output} can't be written: {error.strerror}") from error
    else:
        output.result(made.text.rstrip("\n"))
    output.value(fields)
    for filled in made.types:
        counts = filled.counts
        output.note(
            f"{filled.tag}: {counts.copied} members copied, {counts.initialised} new and 0, "
            f"{counts.left} for you"
        )
    for text in made.listed:
        output.warning(text)
