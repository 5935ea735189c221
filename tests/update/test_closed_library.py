# SPDX-License-Identifier: GPL-2.0-or-later
"""A patched library that the target closes: its memory is gone, or another one's."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import hotpatch
from tests.support.compiled import CompileShared
from tests.support.programs import Program, started
from tests.update.judging import regions

HOST = """
import ctypes, json, os, sys
print(f"READY pid={os.getpid()}", flush=True)
for line in sys.stdin:
    order, _, argument = line.strip().partition(" ")
    if order == "open":
        library = ctypes.CDLL(argument)
        reply = {"place": ctypes.cast(library.plug, ctypes.c_void_p).value}
    elif order == "call":
        reply = {"answer": library.plug()}
    else:
        handle = library._handle
        del library
        reply = {"failed": ctypes.CDLL(None).dlclose(ctypes.c_void_p(handle))}
    print(json.dumps(reply), flush=True)
"""
PLUG = """
volatile int kept;
int plug(void) { kept = kept + ANSWER; kept = kept - ANSWER; return ANSWER; }
"""
# Differs in the bytes that the entry of the first one was written to.
OTHER = """
int plug(void) { __asm__ volatile("mov $7, %eax; nop; nop; nop; nop"); return ANSWER; }
"""
FIX = """
#include <hotpatch.h>
int plug(void) { return 2; }
HOTPATCH_REPLACE(plug);
"""


@pytest.fixture
def host() -> Iterator[Program]:
    """A program that opens a library, calls its function, and closes it."""
    with started([sys.executable, "-c", HOST]) as program:
        yield program


@pytest.fixture
def plug(compile_shared: CompileShared) -> Path:
    return compile_shared(PLUG, "-DANSWER=1")


@pytest.fixture
def fix(compile_shared: CompileShared) -> str:
    return str(compile_shared(FIX))


def patch_and_close(host: Program, plug: Path, fix: str) -> int:
    """Patch a library that is open, close it, and return where its function was."""
    place = int(host.ask(f"open {plug}")["place"])
    hotpatch.apply(host.pid, fix)
    assert host.ask("call")["answer"] == 2
    assert host.ask("close")["failed"] == 0
    return place


def test_the_patch_is_taken_out(host: Program, plug: Path, fix: str) -> None:
    patch_and_close(host, plug, fix)
    assert hotpatch.revert(host.pid).warnings == ()
    assert regions(host.pid) == []
    host.ask(f"open {plug}")
    assert host.ask("call")["answer"] == 1


def test_it_is_patched_again(host: Program, plug: Path, fix: str) -> None:
    """Opened again it is as in its file, and the patch that is on does not know."""
    patch_and_close(host, plug, fix)
    host.ask(f"open {plug}")
    assert host.ask("call")["answer"] == 1
    hotpatch.revert(host.pid)
    hotpatch.apply(host.pid, fix)
    assert host.ask("call")["answer"] == 2
    hotpatch.revert(host.pid)
    assert host.ask("call")["answer"] == 1


def test_another_library_in_its_place_is_left_alone(
    host: Program, plug: Path, fix: str, compile_shared: CompileShared
) -> None:
    place = patch_and_close(host, plug, fix)
    other = int(host.ask(f"open {compile_shared(OTHER, '-DANSWER=3')}")["place"])
    assert other == place, "the other one is elsewhere: this shows nothing"
    hotpatch.revert(host.pid)
    assert host.ask("call")["answer"] == 3
