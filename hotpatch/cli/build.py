# SPDX-License-Identifier: GPL-2.0-or-later
"""`hotpatch build`: make a patch from a diff, from two builds, or from hand-written C."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from hotpatch.cli import arguments as options
from hotpatch.cli.arguments import Arguments, Option, Usage, whole_number
from hotpatch.cli.output import Output, is_terminal
from hotpatch.errors import Refused

if TYPE_CHECKING:
    from hotpatch.build.make import Made, Source

OPERANDS = (
    "--source DIR --diff FIX.diff --target BINARY|PID -o FIX.so",
    "--old DIR --new DIR --target BINARY|PID -o FIX.so",
    "FIX.c -o FIX.so",
)
OPTIONS = (
    Option(("-o", "--output"), "where to write the patch", "FIX.so"),
    Option(("--source",), "the source that the running program was built of", "DIR"),
    Option(("--diff",), "what to change in it; repeatable, in this order", "FILE", repeat=True),
    Option(("--target",), "the program or library to be patched, or a process of it", "BINARY|PID"),
    Option(("--build-command",), "how the program is built, with its own flags", "COMMAND"),
    Option(("--compile-commands",), "the same as a compile_commands.json", "FILE"),
    Option(("--old",), "object files as they were, in place of --source", "DIR"),
    Option(("--new",), "object files as they are to be", "DIR"),
    Option(
        ("--keep",), "a variable that stays as it is in the target; repeatable", "NAME", repeat=True
    ),
    Option(("--skip",), "a function that stays as it is; repeatable", "NAME", repeat=True),
    Option(
        ("--changed-type",),
        "a type whose change matters to no object in the target; repeatable",
        "TYPE",
        repeat=True,
    ),
    Option(
        ("--add",),
        "C to come with it: transfers for the types that change; repeatable",
        "FILE.c",
        repeat=True,
    ),
    Option(("--name",), "what the patch is called (default: its file's name)", "TEXT"),
    Option(("--description",), "a line on what it does", "TEXT"),
    Option(("--cve",), "what it mends, if the diff does not say it; repeatable", "ID", repeat=True),
    Option(("--work",), "where to keep what can be used again", "DIR"),
    Option(("-j", "--jobs"), "how many compilers to run at once", "N", whole_number),
    options.JSON,
    options.QUIET,
    options.VERBOSE,
    options.NO_COLOR,
)

_CVE = re.compile(r"CVE-\d{4}-\d{4,}")


def run(arguments: Arguments, output: Output) -> int:
    """Make the patch."""
    if not arguments.output:
        raise Usage("it is not said where to write the patch", "give -o FIX.so")
    report = _Line(output)
    try:
        fields = _make(arguments, output, report)
    finally:
        report.erase()
    output.value(fields)
    output.result(_text(fields, output))
    for warning in fields["warnings"]:
        output.warning(warning)
    return 0


def _make(arguments: Arguments, output: Output, report: Callable[[str, int, int], None]) -> Any:
    if arguments.operands:
        _only(arguments, "operands", ("source", "diff", "old", "new", "target", "add"))
        return _compile(arguments)
    if not arguments.target:
        raise Usage("it is not said what is to be patched", "give --target BINARY or --target PID")
    if arguments.old or arguments.new:
        _only(arguments, "--old and --new", ("source", "diff", "build_command", "compile_commands"))
        if not (arguments.old and arguments.new):
            raise Usage("--old and --new belong together", "give both")
        return _from_builds(arguments, report)
    if not (arguments.source and arguments.diff):
        raise Usage("there is nothing to build from", "give --source and --diff, or a C file")
    return _from_diff(arguments, report)


def _only(arguments: Arguments, what: str, others: tuple[str, ...]) -> None:
    for other in others:
        if getattr(arguments, other):
            raise Usage(f"--{other.replace('_', '-')} has no meaning with {what}", "see --help")


def _from_diff(arguments: Arguments, report: Callable[[str, int, int], None]) -> dict[str, Any]:
    from hotpatch.build.make import Source  # noqa: PLC0415
    from hotpatch.build.tree import Diff  # noqa: PLC0415
    from hotpatch.build.units import Building, compile_touched  # noqa: PLC0415

    diffs = [Diff(path) for path in arguments.diff]
    building = Building(arguments.build_command, arguments.compile_commands, arguments.jobs)
    work = arguments.work or _default_work(arguments.source or "")
    touched = compile_touched(arguments.source or "", diffs, building, work, report)
    sources = [Source(c.source, c.old, c.new, c.run) for c in touched.compiled]
    if not sources:
        raise Refused(
            f"the diff changes nothing that is compiled ({', '.join(touched.files)})",
            "see that the build command builds the files that it changes",
        )
    facts = [("source", os.path.basename(os.path.realpath(arguments.source or "")))]
    for diff in diffs:
        facts += [("diff", os.path.basename(diff.path)), ("diff-sha256", diff.digest)]
    facts += [("compiler", version) for version in touched.compilers]
    texts = [os.path.basename(d.path) + d.content.decode(errors="replace") for d in diffs]
    fields = _patch(arguments, sources, facts, texts, report)
    return {**fields, "files": list(touched.files), "compiled": touched.compiled_now}


def _from_builds(arguments: Arguments, report: Callable[[str, int, int], None]) -> dict[str, Any]:
    from hotpatch.build.pairing import paired_objects  # noqa: PLC0415

    sources = paired_objects(arguments.old or "", arguments.new or "")
    facts = [("old", os.path.basename(os.path.realpath(arguments.old or "")))]
    facts += [("new", os.path.basename(os.path.realpath(arguments.new or "")))]
    return _patch(arguments, sources, facts, [], report)


def _patch(
    arguments: Arguments,
    sources: list[Source],
    facts: list[tuple[str, str]],
    texts: list[str],
    report: Callable[[str, int, int], None],
) -> dict[str, Any]:
    from tempfile import TemporaryDirectory  # noqa: PLC0415

    import hotpatch  # noqa: PLC0415
    from hotpatch.build.binary import Binary  # noqa: PLC0415
    from hotpatch.build.make import make_patch  # noqa: PLC0415
    from hotpatch.build.options import Options  # noqa: PLC0415
    from hotpatch.build.written import compile_parts  # noqa: PLC0415

    cves = sorted({*arguments.cve, *(name for text in texts for name in _CVE.findall(text))})
    facts = [*(("cve", cve) for cve in cves), *facts, ("hotpatch", hotpatch.__version__)]
    options = Options(
        frozenset(arguments.keep),
        frozenset(arguments.skip),
        frozenset(arguments.changed_type),
        arguments.name or os.path.basename(arguments.output or "").removesuffix(".so"),
        arguments.description or "",
        tuple(facts),
    )
    binary = Binary(_binary(arguments.target or ""))
    with TemporaryDirectory(prefix="hotpatch-") as directory:
        parts = compile_parts(arguments.add, directory)
        made = make_patch(sources, binary, arguments.output or "", options, report, parts)
    fields = {**_fields(made), "cves": cves}
    if made.included and _is_process(arguments.target or ""):
        report("checking it with the process", 0, 1)
        return {**fields, **_checked(int(arguments.target or ""), made)}
    return fields


def _checked(pid: int, made: Made) -> dict[str, Any]:
    """Return what a process says to its patch: its memory may be another than its file's."""
    import hotpatch  # noqa: PLC0415

    try:
        found = hotpatch.check(pid, made.path)
    except hotpatch.HotpatchError as error:
        warning = f"process {pid} can't have it as it is now: {error.reason}; {error.hint}"
        return {"check": error.fields(), "warnings": [*made.warnings, warning]}
    return {"check": {"status": "ok"}, "warnings": [*made.warnings, *found.warnings]}


def _fields(made: Made) -> dict[str, Any]:
    fields: dict[str, Any] = {"status": "ok", "path": None, "patch": None}
    if made.included:
        from hotpatch.patch.file import PatchFile  # noqa: PLC0415

        patch = PatchFile.open(made.path)  # what was made can be read
        fields["path"] = made.path
        fields["patch"] = {"id": patch.id, "name": patch.name}
    return {
        **fields,
        "functions": [one._asdict() for one in made.included],
        "changed": list(made.changed),
        "moved": list(made.moved),
        "warnings": list(made.warnings),
    }


def _binary(target: str) -> str:
    """Return the path of what is to be patched; a number is a process."""
    if not _is_process(target):
        return target
    link = f"/proc/{target}/exe"
    try:
        path = os.readlink(link)
    except OSError as error:
        raise Refused(
            f"process {target} has no program that can be seen: {error.strerror}",
            "give the path of the program",
        ) from error
    return path if os.path.exists(path) and os.path.samefile(path, link) else link


def _is_process(target: str) -> bool:
    return target.isdecimal() and not os.path.exists(target)


def _default_work(source: str) -> str:
    from hashlib import sha256  # noqa: PLC0415

    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    path = os.path.realpath(source)
    key = sha256(path.encode(errors="surrogateescape")).hexdigest()[:12]
    return os.path.join(cache, "hotpatch", f"{os.path.basename(path)}-{key}")


def _compile(arguments: Arguments) -> dict[str, Any]:
    """Compile a patch that was written by hand."""
    from hotpatch.build.written import compile_patch  # noqa: PLC0415
    from hotpatch.patch.file import PatchFile  # noqa: PLC0415

    out = arguments.output or ""
    compile_patch(arguments.operands, out)
    patch = PatchFile.open(out)
    functions = [
        {
            "name": r.name,
            "source": r.file,
            "kind": "function",
            "reason": "written",
            "replaces": True,
        }
        for r in patch.replacements
    ]
    return {
        "status": "ok",
        "path": out,
        "patch": {"id": patch.id, "name": patch.name},
        "functions": functions,
        "changed": [r.name for r in patch.replacements],
        "moved": [],
        "warnings": [],
        "cves": [],
    }


def _text(fields: dict[str, Any], output: Output) -> str:
    from hotpatch.cli.report import table  # noqa: PLC0415

    moved = len(fields["moved"])
    lines = f"{moved} function{'s' * (moved != 1)} with other line numbers only, left as they are"
    if fields["path"] is None:
        return "nothing changed" + (f" ({lines})" if moved else "")
    cves = f" for {', '.join(fields['cves'])}" if fields["cves"] else ""
    text = [f"built {fields['path']}{cves} ({fields['patch']['id'][:12]})"]
    text += table(
        [
            (f"  {one['name']}", one["source"] or "", one["reason"])
            for one in fields["functions"]
            if one["replaces"] or one["kind"] != "constant" or output.verbose
        ]
    )
    return "\n".join([*text, f"  {lines}"] if moved else text)


class _Line:
    """What is being done, on a terminal."""

    def __init__(self, output: Output) -> None:
        self._wanted = is_terminal(sys.stderr) and not output.json and not output.quiet
        self._drawn = False

    def __call__(self, what: str, done: int, total: int) -> None:
        if self._wanted:
            count = f" {done} of {total}" if total > 1 else ""
            sys.stderr.write(f"\r\x1b[K{what}{count}")
            sys.stderr.flush()
            self._drawn = True

    def erase(self) -> None:
        if self._drawn:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
