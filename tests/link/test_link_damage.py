# SPDX-License-Identifier: GPL-2.0-or-later
"""Linking a damaged patch gives an image that can be mapped, or is refused."""

from __future__ import annotations

import os

import pytest

from hotpatch.errors import Refused
from hotpatch.link.image import image_size, link
from hotpatch.patch.file import PatchFile
from tests.link.conftest import CompilePatch, Host, StartHost

TEXT = """
#include <string.h>
extern int limit;
extern __thread int per_thread;
HOTPATCH_EXTERN_STATIC("render.c", int, scale, (int));
int (*pointer)(int);
int compute(int x)
{
    pointer = scale;
    return HOTPATCH_ORIGINAL(compute)(x) + limit + per_thread + strlen((char *)&limit);
}
HOTPATCH_REPLACE(compute);
"""
SMALL = ("-s", "-Wl,-z,noseparate-code", "-Wl,-z,norelro")


def links(host: Host, content: bytes) -> bool:
    fd = os.memfd_create("damaged")
    try:
        os.write(fd, content)
        patch = PatchFile.open(f"/proc/self/fd/{fd}")
        size = image_size(patch)
        image = link(host.process, patch, 0x7F0000000000, {r.name: 0 for r in patch.replacements})
    except Refused as refusal:
        assert refusal.reason and refusal.hint
        return False
    finally:
        os.close(fd)
    assert len(image.content) <= image.size == size
    for run in image.runs:
        assert image.base <= run.address < run.address + run.size <= image.base + size
        assert run.prot & 6 != 6
    return True


def check(host: Host, patch: PatchFile, stride: int) -> None:
    with open(patch.path, "rb") as file:
        content = file.read()
    assert links(host, content)
    outcomes = set()
    for bit in range(0, 8 * len(content), stride):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        outcomes.add(links(host, bytes(damaged)))
    assert outcomes == {True, False}


def test_some_flips(start_host: StartHost, compile_patch: CompilePatch) -> None:
    check(start_host("pie"), compile_patch(TEXT, *SMALL), 67)


@pytest.mark.sweep
@pytest.mark.parametrize("more", ["-Wl,-z,pack-relative-relocs", "-Wl,--hash-style=sysv"])
def test_every_flip(more: str, start_host: StartHost, compile_patch: CompilePatch) -> None:
    check(start_host("pie"), compile_patch(TEXT, *SMALL, more), 1)
