# SPDX-License-Identifier: GPL-2.0-or-later
"""A patch file, read once and checked for all that can be said without a target.

The whole file is read into memory first. So what was checked is what is linked, however the
file changes meanwhile, and `digest` says which content that was.

What replaces what is said by the manifest (see `hotpatch.patch.manifest`), by `--replace`, or
by both.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from stat import S_ISREG
from typing import TYPE_CHECKING, NamedTuple

from hotpatch.arch.relocations import field_size
from hotpatch.elf.file import ElfError, ElfFile
from hotpatch.errors import Refused
from hotpatch.patch import checks
from hotpatch.patch.manifest import (
    Manifest,
    Replacement,
    Runtime,
    StaticReference,
    Transfer,
    TypeChange,
    Unaffected,
    UpdatePoint,
    read_manifest,
)
from hotpatch.patch.places import PLACE_TYPES, PlaceEntry, read_places
from hotpatch.patch.trust import problem_of

if TYPE_CHECKING:
    from hotpatch.elf.symbols import Symbol

LARGEST_FILE = 1 << 30
_LARGE_FILE = 1 << 20


class PatchFile(NamedTuple):
    """A patch that can be linked, as far as the file alone can tell."""

    path: str
    name: str
    """What it calls itself, else the file's name without `.so`."""
    description: str | None
    id: str
    """Its build-id in hexadecimal, else the first 40 digits of `digest`."""
    digest: str
    """SHA-256 of the content, in hexadecimal."""
    elf: ElfFile
    replacements: tuple[Replacement, ...]
    statics: tuple[StaticReference, ...]
    points: tuple[UpdatePoint, ...]
    """The functions of the target at whose entry a thread may be, of the manifest and asked for."""
    transfers: tuple[Transfer, ...]
    """What is run in the target at the commit or at a revert, in this order."""
    runtime: Runtime | None
    """Where the log of what transfers change is; None where the patch has none."""
    build_ids: tuple[tuple[str | None, str], ...]
    """The builds it is made for: soname or file name of a library, None for the program."""
    places: tuple[PlaceEntry, ...]
    """The fields of a built patch that hold addresses of that build."""
    types: tuple[TypeChange, ...]
    """The types that it changes."""
    unaffected: tuple[Unaffected, ...]
    """Functions of the target that go on working with these."""
    facts: tuple[tuple[str, str], ...]
    reasons: tuple[tuple[str, str], ...]
    """What a built patch says of its origin, and why each function is in it."""
    trust: str | None
    """Why the file is not to be trusted with the target's rights (see `hotpatch.patch.trust`)."""

    @classmethod
    def open(cls, path: str, replace: Sequence[str] = (), points: Sequence[str] = ()) -> PatchFile:
        """Read and check the patch at `path`.

        `replace` holds the values of `--replace`: "old", "old=new", or "file.c:old=new" for the
        static `old` of file.c; `points` those of `--update-point`: "function" or "file.c:function".

        Raises `Refused` for anything that is no patch, with `reason` and `hint`.
        """
        content, trust = _content(path)
        try:
            return cls._read(path, content, replace, points)._replace(trust=trust)
        except ElfError as error:
            raise Refused(
                f"no shared object that can be read: {error}", "see what `file` says of it"
            ) from error

    @classmethod
    def _read(
        cls, path: str, content: bytes, replace: Sequence[str], points: Sequence[str]
    ) -> PatchFile:
        elf = ElfFile.from_bytes(content, path)
        _check_file(elf)
        manifest = read_manifest(elf)
        replacements = _replacements(elf, manifest, replace)
        digest = _sha256(content)
        return cls(
            path=path,
            name=manifest.name or os.path.basename(path).removesuffix(".so"),
            description=manifest.description,
            id=elf.build_id.hex() if elf.build_id else digest[:40],
            digest=digest,
            elf=elf,
            replacements=replacements,
            statics=manifest.statics,
            points=tuple(dict.fromkeys((*manifest.points, *map(_point, points)))),
            transfers=manifest.transfers,
            runtime=manifest.runtime,
            build_ids=manifest.build_ids,
            places=_places(elf, manifest),
            types=manifest.types,
            unaffected=manifest.unaffected,
            facts=manifest.facts,
            reasons=manifest.reasons,
            trust=None,
        )


def _sha256(content: bytes) -> str:
    """Return a digest, in hexadecimal.

    OpenSSL takes longer to load than Python's own code for it takes for a patch of usual size.
    """
    if len(content) < _LARGE_FILE:
        for module in ("_sha2", "_sha256"):  # of Python 3.12, and of those before
            with suppress(ImportError):
                return str(import_module(module).sha256(content).hexdigest())
    from hashlib import sha256  # noqa: PLC0415

    return sha256(content).hexdigest()


def _content(path: str) -> tuple[bytes, str | None]:
    """Return what the file holds, and why it is not to be trusted."""
    try:
        # Not blocked by a pipe without a writer.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            return _read_all(path, fd)
        finally:
            os.close(fd)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or str(error)
        raise Refused(f"{path} can't be read: {reason}", "name the patch's file") from error


def _read_all(path: str, fd: int) -> tuple[bytes, str | None]:
    status = os.fstat(fd)
    if not S_ISREG(status.st_mode):
        raise Refused(f"{path} is not a regular file", "name the patch's shared object")
    if status.st_size > LARGEST_FILE:
        raise Refused(f"{path} is larger than {LARGEST_FILE >> 20} MiB", "strip it")
    with open(fd, "rb", closefd=False) as file:
        return file.read(LARGEST_FILE), problem_of(path, status)


def _check_file(elf: ElfFile) -> None:
    """Refuse what is no patch, and read every table once, so that damage shows here."""
    checks.check_kind(elf)
    checks.check_segments(elf)
    checks.check_alignment(elf)
    checks.check_text_relocations(elf)
    checks.check_thread_local(elf)
    for relocation in elf.relocations:
        if relocation.symbol_index:
            elf.dynamic_symbols[relocation.symbol_index]
        elf.read(relocation.offset, 8)
    for address in (*elf.init_functions, *elf.fini_functions):
        elf.read(address, 1)


def _places(elf: ElfFile, manifest: Manifest) -> tuple[PlaceEntry, ...]:
    """Return the places; they mean nothing but in the build that the patch is made for."""
    found = tuple(read_places(elf))
    if (found or any(r.places for r in manifest.replacements)) and len(manifest.build_ids) != 1:
        raise Refused(
            "the patch has addresses of a build, and does not say of which", "build it anew"
        )
    for place in found:
        if place.type not in PLACE_TYPES:
            raise Refused(f"the patch has a place of type {place.type}", "build it anew")
        elf.read(place.offset, field_size(place.type))
    return found


def _replacements(
    elf: ElfFile, manifest: Manifest, options: Sequence[str]
) -> tuple[Replacement, ...]:
    asked = [_from_option(elf, option) for option in options]
    known: dict[tuple[str, str | None], Replacement] = {}
    for replacement in (*manifest.replacements, *asked):
        key = replacement.name, replacement.file
        twice = known.setdefault(key, replacement)
        repeats_manifest = twice.value == replacement.value and replacement in asked
        if twice is not replacement and not repeats_manifest:
            raise Refused(
                f"the patch replaces `{replacement.name}` twice, by `{twice.symbol}` and by "
                f"`{replacement.symbol}`",
                "leave one of them",
            )
        checks.check_replacement(elf, replacement)
    if not known:
        raise Refused(f"{elf.name} says nothing about what it replaces", _how_to_say(elf))
    return tuple(known.values())


def _from_option(elf: ElfFile, option: str) -> Replacement:
    old, separator, new = option.partition("=")
    file, _, name = old.rpartition(":")
    if not name or (separator and not new):
        raise Refused(f"--replace {option!r} does not name a function", "write OLD or OLD=NEW")
    new = new or name
    return Replacement(name, file or None, _defined(elf, new).value, new)


def _point(option: str) -> UpdatePoint:
    file, _, name = option.rpartition(":")
    if not name:
        raise Refused(f"--update-point {option!r} does not name a function", "write FUNCTION")
    return UpdatePoint(name, file or None)


def _defined(elf: ElfFile, name: str) -> Symbol:
    """Return the one function `name` that the patch defines."""
    from hotpatch.elf import constants as c  # noqa: PLC0415

    found = {
        symbol.value: symbol
        for symbol in elf.symbols.by_name(name)
        if symbol.section != c.SHN_UNDEF
        and symbol.type in (c.STT_FUNC, c.STT_NOTYPE, c.STT_GNU_IFUNC)
    }
    if len(found) == 1:
        return found.popitem()[1]
    if found:
        raise Refused(
            f"the patch defines {len(found)} functions `{name}`",
            "give the new one a name of its own",
        )
    raise Refused(f"the patch does not define a function `{name}`", _how_to_say(elf))


def _how_to_say(elf: ElfFile) -> str:
    from hotpatch.elf import constants as c  # noqa: PLC0415

    names = sorted(symbol.name for symbol in elf.symbols.functions() if symbol.bind != c.STB_LOCAL)
    functions = f" (it defines {', '.join(names[:10])})" if names else ""
    return f"write HOTPATCH_REPLACE(function) in its source, or use --replace OLD=NEW{functions}"
