# SPDX-License-Identifier: GPL-2.0-or-later
"""The finished image of a patch: bytes for one place in one target, and what to do with them.

    linked = link(process, patch, base, originals)

The image begins with the patch's segments, at the distances that the file gives them. Where
the patch uses thread-local variables of the target, a page of code for that comes behind them.
"""

from __future__ import annotations

from collections.abc import Mapping
from mmap import PROT_EXEC, PROT_READ
from typing import TYPE_CHECKING, NamedTuple

from hotpatch.arch import relocations as r
from hotpatch.elf.content import ElfError
from hotpatch.errors import Refused
from hotpatch.link import duplicates, layout, scope, startup
from hotpatch.link.bind import Binder, Binding, check_libraries
from hotpatch.link.layout import PAGE, Run
from hotpatch.link.relocate import Call, Relocator
from hotpatch.link.scope import exported
from hotpatch.link.target import Process
from hotpatch.link.values import TLS_GET_ADDR, Values
from hotpatch.link.variables import Trampolines, Variables

if TYPE_CHECKING:
    from hotpatch.patch.file import PatchFile

__all__ = ["Binding", "Call", "LinkedImage", "Run", "image_size", "link"]

_CODE = PROT_READ | PROT_EXEC


class LinkedImage(NamedTuple):
    """A patch relocated for address `base`; all addresses are the target's."""

    base: int
    bias: int
    """What a virtual address of the patch file has to be added to."""
    size: int
    """Bytes of memory from `base`; `content` may be shorter, the rest is zero."""
    content: bytes
    runs: tuple[Run, ...]
    """The pages to map, by protection; what lies between them is not to be mapped."""
    calls: tuple[Call, ...]
    """What the target runs at the commit, in this order, before anything of the patch."""
    fini: tuple[int, ...]
    """What the target runs, in this order, when the patch is taken out."""
    bindings: tuple[Binding, ...]
    """What the symbols of the patch mean in the target, by name."""
    warnings: tuple[str, ...]


def image_size(patch: PatchFile) -> int:
    """Return the bytes of memory that the image of `patch` takes, whole pages."""
    return len(layout.span(patch.elf)) + (PAGE if _needs_trampolines(patch) else 0)


def link(
    process: Process, patch: PatchFile, base: int, originals: Mapping[str, int]
) -> LinkedImage:
    """Return the image of `patch` for the page-aligned address `base` of `process`.

    `originals` holds the address of the old path of each replaced function, by its name, or by
    "file:name" where the patch replaces two of the same name.

    Raises `Refused` where patch and target don't fit; `OSError` where the target can't be read.
    """
    if base % PAGE:
        raise ValueError(f"{base:#x} is not the start of a page")
    try:
        return _link(process, patch, base, originals)
    except ElfError as error:
        raise Refused(f"a file that is needed is damaged: {error}", "see `readelf -aW`") from error


def _link(
    process: Process, patch: PatchFile, base: int, originals: Mapping[str, int]
) -> LinkedImage:
    elf, span = patch.elf, layout.span(patch.elf)
    bias = base - span.start
    check_libraries(process, patch)
    binder = Binder(process, patch, originals)
    content = layout.content(elf)
    code = _Code(process, base + len(span)) if _needs_trampolines(patch) else None
    values = Values(process, binder, bias, code.entries.tls_get_addr if code else None)
    variables = Variables(process, binder, code.entries if code else None)
    relocator = Relocator(elf, content, base, values, variables)
    relocator.run()
    _fill_places(process, patch, relocator)
    if missing := [*values.missing, *variables.missing]:
        raise binder.missing(missing)
    slots = [call.slot - bias for call in relocator.calls if call.slot is not None]
    runs = layout.runs(elf, bias, slots)
    if code:
        content += bytes(len(span) - len(content)) + code.text
        runs += (Run(base + len(span), PAGE, _CODE),)
    constructors = (Call("constructor", bias + a) for a in startup.constructors(elf))
    return LinkedImage(
        base=base,
        bias=bias,
        size=image_size(patch),
        content=bytes(content),
        runs=runs,
        calls=(*relocator.calls, *constructors),
        fini=tuple(bias + address for address in startup.destructors(elf)),
        bindings=_sorted({**values.bindings, **variables.bindings}),
        warnings=(*binder.warnings, *duplicates.warnings(elf, binder.home)),
    )


def _fill_places(process: Process, patch: PatchFile, relocator: Relocator) -> None:
    """Fill what a built patch refers to by addresses of the build that it is made for."""
    if not patch.places:
        return
    module = scope.home_of_places(process, patch)
    for place in patch.places:
        relocator.fill(place, module)


class _Code:
    """The code for thread-local access, assembled for one address."""

    def __init__(self, process: Process, address: int) -> None:
        from hotpatch.arch.assembler import template  # noqa: PLC0415

        found = template("tls.S", "real")
        real = next(
            (
                module.bias + symbol.value
                for module in process.modules
                if (symbol := exported(module, TLS_GET_ADDR))
            ),
            0,
        )
        self.text = found.fill(address, real=real)
        self.entries = Trampolines(
            address + found.labels["tls_get_addr"], address + found.labels["tls_descriptor"]
        )


def _sorted(bindings: dict[str, Binding]) -> tuple[Binding, ...]:
    return tuple(bindings[name] for name in sorted(bindings))


def _needs_trampolines(patch: PatchFile) -> bool:
    wanted = (r.R_X86_64_DTPMOD64, r.R_X86_64_TLSDESC)
    return any(relocation.type in wanted for relocation in patch.elf.relocations) or any(
        place.type in wanted for place in patch.places
    )
