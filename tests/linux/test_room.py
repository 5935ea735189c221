# SPDX-License-Identifier: GPL-2.0-or-later
"""What a process may still get of memory: the least of what its cgroups and the machine have."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from hotpatch.linux import room
from hotpatch.linux.room import memory_left

MB = 1 << 20
CgroupTree = Callable[..., str]


@pytest.fixture
def cgroups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CgroupTree:
    """Lay out cgroup directories; `lines` are /proc/PID/cgroup."""

    def lay_out(lines: str, **files: dict[str, str]) -> str:
        proc = tmp_path / "cgroup"
        proc.write_text(lines)
        for directory, contents in files.items():
            place = tmp_path / directory.replace("__", "/")
            place.mkdir(parents=True, exist_ok=True)
            for name, text in contents.items():
                (place / name).write_text(text)
        real = room.read
        own = f"/proc/{os.getpid()}/cgroup"
        monkeypatch.setattr(room, "read", lambda path: real(str(proc) if path == own else path))
        return str(tmp_path)

    return lay_out


def v2(limit: str, used: int, files: int) -> dict[str, str]:
    return {
        "memory.max": f"{limit}\n",
        "memory.current": f"{used}\n",
        "memory.stat": f"anon 1\ninactive_file {files}\nactive_file 5\n",
    }


def v1(limit: int, used: int, files: int) -> dict[str, str]:
    return {
        "memory.limit_in_bytes": f"{limit}\n",
        "memory.usage_in_bytes": f"{used}\n",
        "memory.stat": f"inactive_file 7\ntotal_inactive_file {files}\n",
    }


def test_limit_of_a_cgroup_less_what_is_used_but_for_files(cgroups: CgroupTree) -> None:
    root = cgroups("0::/a/b\n", a__b=v2(str(100 * MB), 60 * MB, 5 * MB))
    assert memory_left(os.getpid(), root) == 45 * MB


def test_cgroup_further_up_may_be_the_narrowest(cgroups: CgroupTree) -> None:
    root = cgroups("0::/a/b\n", a__b=v2("max", 60 * MB, 0), a=v2(str(64 * MB), 60 * MB, 0))
    assert memory_left(os.getpid(), root) == 4 * MB


def test_first_version_of_the_interface(cgroups: CgroupTree) -> None:
    lines = "9:name=systemd:/\n4:cpu,memory:/a\n0::/\n"
    root = cgroups(lines, memory__a=v1(100 * MB, 90 * MB, 3 * MB))
    assert memory_left(os.getpid(), root) == 13 * MB


def test_cgroup_that_is_full(cgroups: CgroupTree) -> None:
    root = cgroups("0::/a\n", a=v2(str(MB), 2 * MB, 0))
    assert memory_left(os.getpid(), root) == 0


def test_no_limit_but_the_machine(cgroups: CgroupTree) -> None:
    root = cgroups("0::/a\n", a=v2("max", 60 * MB, 0))
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 16 * MB < memory_left(os.getpid(), root) <= total
