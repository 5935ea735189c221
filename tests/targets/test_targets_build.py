# SPDX-License-Identifier: GPL-2.0-or-later
"""The build of ``targets/``: what a patch replaces is there to be replaced."""

from __future__ import annotations

import os
import subprocess

import pytest

from tests.targets.servers import BUILD, TARGETS

SERVERS = ["web-v1", "web-v2", "web-v3", "web-v4", "kv-v1", "kv-v2", "kv-v3", "prefork-v1", "forty"]


def output_of(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_every_replaced_function_is_one_symbol() -> None:
    subprocess.run(["make", "-s", "-C", TARGETS, "check"], check=True)


def test_the_check_tells_when_a_function_was_inlined(tmp_path: object) -> None:
    """Without PATCHABLE the compiler takes some of the functions into their callers."""
    make = ["make", "-s", "-C", TARGETS, "check", f"B={tmp_path}"]
    flags = "CFLAGS=-O2 -DPATCHABLE="
    ran = subprocess.run([*make, flags], check=False, capture_output=True, text=True)
    assert ran.returncode != 0
    assert "answer_file: not one symbol in web-v1" in ran.stderr


@pytest.mark.parametrize("name", SERVERS)
def test_a_server_is_built_as_distributions_build(name: str) -> None:
    path = os.path.join(BUILD, name)
    assert "DYN (Position-Independent Executable file)" in output_of("readelf", "-h", path)
    assert "Build ID: " in output_of("readelf", "-n", path)
    assert ".debug_info" in output_of("readelf", "-S", "-W", path)
