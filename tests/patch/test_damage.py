# SPDX-License-Identifier: GPL-2.0-or-later
"""A damaged patch is refused, or its damage is where it doesn't show; nothing else ever happens."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from hotpatch.errors import Refused
from hotpatch.patch.file import PatchFile
from tests.support.compiled import CompileShared

TEXT = """
#include <hotpatch.h>
extern int limit;
extern __thread int per_thread;
HOTPATCH_EXTERN_STATIC("render.c", int, scale, (int));
int compute(int x) { return HOTPATCH_ORIGINAL(compute)(x) + limit + per_thread + scale(x); }
HOTPATCH_REPLACE(compute);
HOTPATCH_FOR_BUILD_ID("1234");
__attribute__((constructor)) void start(void) { limit++; }
"""
SMALL = ("-O2", "-s", "-Wl,-z,noseparate-code", "-Wl,-z,norelro")
LAYOUTS = {
    "rela": SMALL,
    "relr": (*SMALL, "-Wl,-z,pack-relative-relocs"),
    "sysv-hash": (*SMALL, "-Wl,--hash-style=sysv"),
}


def opens(content: bytes | bytearray) -> bool:
    return opened(content) is not None


def opened(content: bytes | bytearray) -> PatchFile | None:
    """Return the patch in a file with that content, None if it is refused."""
    fd = os.memfd_create("damaged")
    try:
        os.write(fd, content)
        return PatchFile.open(f"/proc/self/fd/{fd}")
    except Refused as refusal:
        assert refusal.reason and refusal.hint
        return None
    finally:
        os.close(fd)


def flips(content: bytes, stride: int) -> Iterator[bytes]:
    """Every `stride`-th bit, so that an odd one meets each bit of a byte somewhere."""
    for bit in range(0, 8 * len(content), stride):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        yield bytes(damaged)


def check(path: Path, truncation_stride: int, flip_stride: int) -> None:
    content = path.read_bytes()
    assert opens(content)
    table = 64 * 40  # section headers come last: without them there is no manifest
    for size in range(0, len(content) - table, truncation_stride):
        assert not opens(content[:size])
    for damaged in flips(content, flip_stride):
        opens(damaged)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_some_damage(layout: str, compile_shared: CompileShared) -> None:
    check(compile_shared(TEXT, *LAYOUTS[layout]), 41, 67)


@pytest.mark.sweep
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_truncation_and_flip(layout: str, compile_shared: CompileShared) -> None:
    check(compile_shared(TEXT, *LAYOUTS[layout]), 1, 1)


def test_every_flip_of_the_manifest(compile_shared: CompileShared) -> None:
    """Pointers are overwritten by their relocations; a null pointer has none and stays null."""
    path = compile_shared(TEXT, *SMALL)
    patch, content = PatchFile.open(str(path)), path.read_bytes()
    section = patch.elf.section("hotpatch_records")
    assert section
    for bit in range(8 * section.size):
        damaged = bytearray(content)
        damaged[section.offset + bit // 8] ^= 1 << bit % 8
        if found := opened(damaged):
            assert bit // 8 % 32 >= 8, "no bit of kind and version is without meaning"
            assert found.replacements == patch.replacements
