# SPDX-License-Identifier: GPL-2.0-or-later
"""`hotpatch inspect PATCH.so`: what a patch replaces, what it brings, what it needs."""

from __future__ import annotations

from typing import Any

from hotpatch.cli import arguments as options
from hotpatch.cli.arguments import Arguments, Usage
from hotpatch.cli.output import Output
from hotpatch.cli.report import table
from hotpatch.link import startup
from hotpatch.patch.file import PatchFile
from hotpatch.patch.manifest import KINDS

OPERANDS = ("PATCH.so",)
OPTIONS = (options.REPLACE, options.JSON, options.NO_COLOR)


def run(arguments: Arguments, output: Output) -> int:
    """Print the manifest of a patch."""
    if len(arguments.operands) != 1:
        raise Usage("name one patch", "hotpatch inspect PATCH.so")
    patch = PatchFile.open(arguments.operands[0], arguments.replace)
    fields = describe(patch)
    output.value(fields)
    output.result(_text(fields))
    if patch.trust:
        output.warning(f"{patch.path}: {patch.trust}")
    return 0


def describe(patch: PatchFile) -> dict[str, Any]:
    """Return all that a patch says of itself, as the JSON object of the command."""
    return {
        "status": "ok",
        "path": patch.path,
        "patch": {"id": patch.id, "name": patch.name},
        "description": patch.description,
        "digest": patch.digest,
        "functions": [
            {"name": r.name, "file": r.file, "replacement": r.symbol, "size": _size(patch, r.value)}
            for r in patch.replacements
        ],
        "update_points": [{"name": p.name, "file": p.file} for p in patch.points],
        "hooks": _hooks(patch),
        "build_ids": [{"module": name, "build_id": build} for name, build in patch.build_ids],
        "statics": [{"name": s.name, "file": s.file} for s in patch.statics],
        "needs": needed_symbols(patch),
        "facts": [list(fact) for fact in patch.facts],
        "reasons": [list(reason) for reason in patch.reasons],
        "types": [change._asdict() for change in patch.types],
        "libraries": list(patch.elf.needed),
        "warnings": [patch.trust] if patch.trust else [],
    }


def _size(patch: PatchFile, value: int) -> int:
    symbol = patch.elf.symbols.at(value)
    return symbol.size if symbol else 0


def _hooks(patch: PatchFile) -> list[dict[str, str]]:
    """Return the code of the patch that is run by itself; start-up files' own is left out."""
    kinds = {
        "constructor": startup.constructors(patch.elf),
        "destructor": startup.destructors(patch.elf),
    }
    return [
        {"kind": kind, "function": _name(patch, address)}
        for kind, addresses in kinds.items()
        for address in addresses
    ] + [{"kind": KINDS[found.kind], "function": found.name} for found in patch.transfers]


def _name(patch: PatchFile, address: int) -> str:
    symbol = patch.elf.symbols.at(address)
    return symbol.name if symbol else f"{address:#x}"


def needed_symbols(patch: PatchFile) -> list[str]:
    """Return the symbols that the target has to define; not those that it may do without."""
    from hotpatch.elf.constants import STB_WEAK  # noqa: PLC0415

    return sorted(
        {
            symbol.name
            for symbol in patch.elf.dynamic_symbols.undefined()
            if symbol.name and symbol.bind != STB_WEAK and not symbol.name.startswith("__hotpatch_")
        }
    )


def _text(fields: dict[str, Any]) -> str:
    lines = [f"{fields['patch']['name']} ({fields['patch']['id']})"]
    if fields["description"]:
        lines.append(f"  {fields['description']}")
    lines.append("replaces:")
    lines += table([_function(function) for function in fields["functions"]])
    sections = {
        "update points:": [_qualified(point) for point in fields["update_points"]],
        "made for:": [f"{b['module'] or 'program'}: {b['build_id']}" for b in fields["build_ids"]],
        "made of:": [f"{key}: {text}" for key, text in fields["facts"]],
        "why:": [f"{name}: {text}" for name, text in fields["reasons"]],
        "changes types:": [f"{t['target']} to {t['new']}" for t in fields["types"]],
        "runs:": [f"{hook['kind']} {hook['function']}" for hook in fields["hooks"]],
        "needs static:": [f"{s['name']} of {s['file']}" for s in fields["statics"]],
        "needs:": fields["needs"],
        "needs library:": fields["libraries"],
    }
    for title, entries in sections.items():
        lines += [title, *(f"  {entry}" for entry in entries)] if entries else []
    return "\n".join(lines)


def _qualified(function: dict[str, Any]) -> str:
    return f"{function['file']}:{function['name']}" if function["file"] else str(function["name"])


def _function(function: dict[str, Any]) -> tuple[str, str, str]:
    return f"  {_qualified(function)}", f"by {function['replacement']}", f"{function['size']} B"
