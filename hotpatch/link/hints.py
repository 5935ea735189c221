# SPDX-License-Identifier: GPL-2.0-or-later
"""What to do about a symbol that the target does not have: only looked for when one is missing."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from hotpatch.link import scope
from hotpatch.link.target import Module

# Functions that compilers call, by how their names begin, and the options that spare them.
_OPTIONS = (
    ("__stack_chk_", "-fno-stack-protector"),
    ("__asan_", "-fno-sanitize=all"),
    ("__ubsan_", "-fno-sanitize=all"),
    ("__tsan_", "-fno-sanitize=all"),
    ("__gcov_", "-fno-profile-arcs"),
    ("__llvm_profile_", "-fno-profile-instr-generate"),
    ("mcount", "without -pg"),
    ("__fentry__", "without -pg"),
)


def where_else(modules: Iterable[Module], name: str, file: str | None) -> str:
    """Return where the target does have `name`, if not in `file`, or has something like it."""
    modules = list(modules)
    for module in modules:
        files = sorted({s.file for s in scope.static_symbols(module, name) if s.file})
        if files:
            return f"{module.path} has a static one in {', '.join(files)}: name the file"
        if file and scope.global_symbol(module, name):
            return f"`{name}` is global in {module.path}: name it without a file"
    return similar(modules, name)


def missing(modules: Iterable[Module], names: list[str]) -> str:
    """Return what to do about `names` that a patch uses and nothing defines."""
    modules = list(modules)
    found = [_option(name) or similar(modules, name) for name in names[:5]]
    return " ".join(dict.fromkeys(filter(None, found)))


def _option(name: str) -> str:
    for start, option in _OPTIONS:
        if name.startswith(start):
            return f"compile the patch with {option}."
    if name.startswith("__") and name.endswith("_chk"):
        return "compile the patch with -U_FORTIFY_SOURCE."
    return ""


def similar(modules: Iterable[Module], name: str) -> str:
    """Return a hint that names symbols of nearly that name, "" if there are none."""
    names = {
        symbol.name
        for module in modules
        for table in scope.symbol_tables(module)
        for symbol in table.functions()
        if abs(len(symbol.name) - len(name)) <= 3
    }
    close = get_close_matches(name, sorted(names), n=3, cutoff=0.75)
    return f"did you mean {' or '.join(f'`{match}`' for match in close)}?" if close else ""
