# SPDX-License-Identifier: GPL-2.0-or-later
"""`hotpatch inspect` and `hotpatch cflags`: what can be said without a target."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.running import environment, hotpatch
from tests.support.compiled import SharedObjects, run_compiler
from tests.support.programs import ROOT, patch


@pytest.fixture
def compiled(tmp_path: Path) -> SharedObjects:
    """Compiles patches."""
    return SharedObjects(tmp_path)


def test_manifest(compiled: SharedObjects) -> None:
    path = compiled(
        """
        #include <hotpatch.h>
        #include <string.h>
        extern int limit;
        HOTPATCH_EXTERN_STATIC("parse.c", int, parse_line, (const char *));
        int compute(const char *x) { return parse_line(x) + limit + (int)strlen(x); }
        HOTPATCH_REPLACE(compute);
        static int other(void) { return 3; }
        HOTPATCH_REPLACE_STATIC_AS("render.c", draw, other);
        HOTPATCH_FOR_BUILD_ID("0123456789abcdef0123456789abcdef01234567");
        HOTPATCH_NAME("the-fix");
        HOTPATCH_DESCRIPTION("Mends it.");
        __attribute__((constructor)) static void prepare(void) { limit++; }
        """,
        "-O2",
    )
    done = hotpatch("inspect", "--json", path)
    assert (done.code, done.err) == (0, "")
    manifest = done.json
    assert manifest["status"] == "ok"
    assert manifest["patch"]["name"] == "the-fix"
    assert manifest["description"] == "Mends it."
    functions = {f["name"]: (f["file"], f["replacement"]) for f in manifest["functions"]}
    assert functions == {"compute": (None, "compute"), "draw": ("render.c", "other")}
    assert all(f["size"] > 0 for f in manifest["functions"])
    assert manifest["build_ids"] == [
        {"module": None, "build_id": "0123456789abcdef0123456789abcdef01234567"}
    ]
    assert manifest["statics"] == [{"name": "parse_line", "file": "parse.c"}]
    assert manifest["hooks"] == [{"kind": "constructor", "function": "prepare"}]
    assert manifest["needs"] == ["limit", "strlen"]
    assert manifest["warnings"] == []
    text = hotpatch("inspect", path).out
    for word in ("the-fix", "Mends it.", "compute", "render.c:draw", "parse_line of parse.c"):
        assert word in text


def test_the_id_is_the_one_of_apply() -> None:
    path = patch("answer_2")
    notes = subprocess.run(["readelf", "-n", path], capture_output=True, text=True, check=True)
    assert f"Build ID: {hotpatch('inspect', '--json', path).json['patch']['id']}" in notes.stdout


def test_a_shared_object_without_a_manifest(compiled: SharedObjects) -> None:
    path = compiled("int shiny(void) { return 1; }")
    done = hotpatch("inspect", "--json", path)
    assert (done.code, done.json["status"]) == (3, "refused")
    assert "shiny" in done.json["hint"]
    done = hotpatch("inspect", "--json", "--replace", "old=shiny", path)
    assert done.code == 0
    (function,) = done.json["functions"]
    assert (function["name"], function["replacement"]) == ("old", "shiny")


def test_a_file_that_anyone_can_write(compiled: SharedObjects) -> None:
    path = compiled("int shiny(void) { return 1; }")
    path.chmod(0o666)
    done = hotpatch("inspect", "--json", "--replace", "shiny", path)
    assert done.code == 0
    assert len(done.json["warnings"]) == 1
    assert done.err.startswith("warning: ")


def test_what_is_no_patch(tmp_path: Path) -> None:
    path = tmp_path / "no.so"
    path.write_text("int shiny(void);")
    assert hotpatch("inspect", path).code == 3
    assert hotpatch("inspect", tmp_path / "nothing.so").code == 3


def test_cflags_of_a_checkout(tmp_path: Path) -> None:
    done = hotpatch("cflags")
    assert (done.code, done.err) == (0, "")
    assert shlex.split(done.out) == [f"-I{ROOT / 'hotpatch' / 'include'}"]
    compile_with(done.out, tmp_path)


def test_cflags_of_an_installation(tmp_path: Path) -> None:
    """The package as a wheel holds it, in a directory with a space, and no checkout in sight."""
    site = tmp_path / "site packages"
    site.mkdir()
    wheel_like = site / "hotpatch"
    for directory, _, files in os.walk(ROOT / "hotpatch"):
        to = wheel_like / Path(directory).relative_to(ROOT / "hotpatch")
        to.mkdir()
        for name in files:
            if name.endswith((".py", ".h")):
                (to / name).write_bytes((Path(directory) / name).read_bytes())
    done = subprocess.run(
        [sys.executable, "-m", "hotpatch", "cflags"],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env=environment(PYTHONPATH=str(site)),
    )
    assert shlex.split(done.stdout) == [f"-I{wheel_like / 'include'}"]
    compile_with(done.stdout, tmp_path)


def compile_with(flags: str, directory: Path) -> None:
    """Compile a patch with the flags that were printed."""
    source = directory / "fix.c"
    source.write_text("#include <hotpatch.h>\nint f(void) { return 1; }\nHOTPATCH_REPLACE(f);\n")
    flagged = shlex.split(flags)
    run_compiler("cc", *flagged, "-shared", "-fPIC", source, "-o", directory / "fix.so")
