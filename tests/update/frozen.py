# SPDX-License-Identifier: GPL-2.0-or-later
"""All writable memory of a process that stands still, to be compared byte for byte.

with unchanged(program):
    ...                     # an update that is to come to nothing
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.proc import maps, threads
from tests.support.programs import Program, wait_until

_BELOW = 32 << 10  # a stack pointer, where signal frames are put: nobody's memory
_RED_ZONE = 128
_PAGE = 4096


@contextmanager
def unchanged(program: Program) -> Iterator[None]:
    """Stop a process by SIGSTOP, and check that its memory is the same in the end.

    Its main thread is stopped in read(2): something has to wait in a system call.
    """
    wait_until(lambda: _calls(program.pid)[0].startswith("0 "), "its main thread reads")
    os.kill(program.pid, signal.SIGSTOP)
    try:
        wait_until(lambda: _states(program.pid) == {"T"}, "all its threads are stopped")
        before = _writable(program.pid)
        yield
        wait_until(lambda: _states(program.pid) == {"T"}, "they are stopped again")
        after = _writable(program.pid)
    finally:
        os.kill(program.pid, signal.SIGCONT)
    assert after.keys() == before.keys()
    assert [hex(page) for page, content in before.items() if after[page] != content] == []


def _states(pid: int) -> set[str]:
    return {
        Path(f"/proc/{pid}/task/{tid}/stat").read_text().rpartition(")")[2].split()[0]
        for tid in threads(pid)
    }


def _writable(pid: int) -> dict[int, bytes]:
    """The content of all pages that the program can write to, without what lies below stacks."""
    found = {}
    with open(f"/proc/{pid}/mem", "rb") as memory:
        for mapping in maps(pid):
            if mapping.permissions.startswith("rw"):
                memory.seek(mapping.start)
                content = memory.read(mapping.end - mapping.start)
                for at in range(0, len(content), _PAGE):
                    found[mapping.start + at] = content[at : at + _PAGE]
    for end in _stack_ends(pid):
        for page in range((end - _BELOW) & -_PAGE, end, _PAGE):
            if page in found:
                keep = max(0, page + _PAGE - end)
                found[page] = found[page][_PAGE - keep :]
    return found


def _stack_ends(pid: int) -> list[int]:
    """Where the stacks of stopped threads end."""
    return [int(call.split()[-2], 16) - _RED_ZONE for call in _calls(pid)]


def _calls(pid: int) -> list[str]:
    return [Path(f"/proc/{pid}/task/{tid}/syscall").read_text() for tid in threads(pid)]
