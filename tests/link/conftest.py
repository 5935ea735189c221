# SPDX-License-Identifier: GPL-2.0-or-later
"""A program in every kind of executable that runs linked images: links are proved by execution.

    host = start_host("static-pie")
    loaded = host.load(compile_patch("int answer(int x) { ... } HOTPATCH_REPLACE(compute) ..."))
    assert host.call(loaded.at("answer"), 1) == 42

Nothing is patched and nobody is stopped: the program maps memory when asked to, the image is
written through /proc/PID/mem, and the program calls it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from hotpatch.link.image import LinkedImage, image_size, link
from hotpatch.patch.file import PatchFile
from hotpatch.process.image import Process
from tests.support.compiled import SharedObjects, run_compiler

PROGRAMS = Path(__file__).parent / "programs"

_DYNAMIC = ("-DWITH_LIBRARY", "-L.", "-llent", "-Wl,-rpath,$ORIGIN")


class Kind(NamedTuple):
    """How a host is compiled, and the libraries it uses; none for static programs."""

    compiler: str
    flags: tuple[str, ...]
    library_flags: tuple[str, ...] | None = ()


KINDS = {
    "pie": Kind("gcc", ("-fPIE", "-pie", *_DYNAMIC)),
    "no-pie": Kind("gcc", ("-fno-pie", "-no-pie", *_DYNAMIC)),
    "static": Kind("gcc", ("-fno-pie", "-static"), None),
    "static-pie": Kind("gcc", ("-fPIE", "-static-pie"), None),
    "clang": Kind("clang", ("-fPIE", "-pie", *_DYNAMIC)),
    "musl": Kind("musl-gcc", ("-fPIE", "-pie", *_DYNAMIC)),
    "musl-static": Kind("musl-gcc", ("-fno-pie", "-static"), None),
}
LIBRARY_KINDS = {
    "gnu2": Kind("gcc", ("-fPIE", "-pie", *_DYNAMIC), ("-mtls-dialect=gnu2",)),
    "musl-gnu2": Kind("musl-gcc", ("-fPIE", "-pie", *_DYNAMIC), ("-mtls-dialect=gnu2",)),
    "initial": Kind("gcc", ("-fPIE", "-pie", *_DYNAMIC), ("-ftls-model=initial-exec",)),
    "musl-initial": Kind("musl-gcc", ("-fPIE", "-pie", *_DYNAMIC), ("-ftls-model=initial-exec",)),
}
WITH_LIBRARY = [name for name, kind in KINDS.items() if kind.library_flags is not None]


class Loaded(NamedTuple):
    """A patch that was linked and written into a host."""

    patch: PatchFile
    image: LinkedImage

    def at(self, function: str) -> int:
        """Return the address in the host of a function of the patch."""
        (symbol,) = {s.value for s in self.patch.elf.symbols.by_name(function) if s.section}
        return self.image.bias + symbol


class Host:
    """A running host program."""

    def __init__(self, path: Path) -> None:
        """Start it, and wait until it is ready."""
        self.path = path
        self._child = subprocess.Popen(
            [path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        assert self._answer() == "ready"
        self.process = Process(self._child.pid)

    def close(self) -> None:
        """End it."""
        self.process.close()
        self._child.kill()
        self._child.communicate()

    def _answer(self) -> str:
        assert self._child.stdout
        line = self._child.stdout.readline()
        assert line, f"{self.path} died with {self._child.wait()}"
        return line.rstrip("\n")

    def ask(self, command: str) -> str:
        """Return its answer to one command."""
        assert self._child.stdin
        self._child.stdin.write(command + "\n")
        return self._answer()

    def call(self, address: int, x: int = 0, thread: str = "call") -> int:
        """Return what the function at an address returns; `thread` is call, worker or thread."""
        return int(self.ask(f"{thread} {address:x} {x}"))

    def state(self) -> dict[str, int]:
        """Return the program's variables as its own code sees them."""
        pairs = (pair.split("=") for pair in self.ask("state").split())
        return {name: int(value) for name, value in pairs}

    def symbol(self, name: str) -> int:
        """Return the address of a symbol of the program."""
        module = self.process.modules[0]
        (value,) = {s.value for s in module.elf.symbols.by_name(name) if s.section}
        return module.bias + value

    def load(self, patch: PatchFile, originals: dict[str, int] | None = None) -> Loaded:
        """Link a patch and put it into the program; its originals are the target's functions."""
        if originals is None:
            originals = {r.name: self.symbol(r.name) for r in patch.replacements}
        base = int(self.ask(f"map {image_size(patch)}"), 16)
        image = link(self.process, patch, base, originals)
        assert len(image.content) <= image.size == image_size(patch)
        self._write(base, image.content)
        self._protect(image)
        for call in image.calls:
            if call.kind == "ifunc":
                assert call.slot
                self._write(call.slot, self.call(call.address).to_bytes(8, "little"))
        for call in image.calls:
            if call.kind == "constructor":
                self.call(call.address)
        return Loaded(patch, image)

    def _protect(self, image: LinkedImage) -> None:
        """Give each page the protection that was asked for, and none to those between."""
        assert self.ask(f"protect {image.base:x} {image.size} 0") == "0"
        for address, size, prot in image.runs:
            assert self.ask(f"protect {address:x} {size} {prot}") == "0"

    def _write(self, address: int, content: bytes) -> None:
        with open(f"/proc/{self._child.pid}/mem", "r+b", buffering=0) as memory:
            assert os.pwrite(memory.fileno(), content, address) == len(content)


class Builds:
    """The hosts, each compiled when first used."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def host(self, kind: str) -> Path:
        """Return the path of the host of that kind."""
        compiler, flags, library_flags = {**KINDS, **LIBRARY_KINDS}[kind]
        directory = self._directory / kind
        if not shutil.which(compiler):
            pytest.skip(f"no {compiler}")
        if not directory.exists():
            directory.mkdir()
            for library in ("lent", "opened") if library_flags is not None else ():
                # Only what the program is linked with may have its place fixed at the start.
                own_flags = library_flags if library == "lent" else ()
                run_compiler(
                    compiler, "-O2", "-fPIC", "-shared", *own_flags, PROGRAMS / f"{library}.c",
                    "-o", f"lib{library}.so", f"-Wl,-soname,lib{library}.so", cwd=directory,
                )  # fmt: skip
            sources = (PROGRAMS / f"{name}.c" for name in ("host", "parse", "render"))
            run_compiler(
                compiler, "-O2", "-g", "-pthread", "-o", "host", *sources, *flags, cwd=directory
            )
        return directory / "host"


@pytest.fixture(scope="session")
def builds(tmp_path_factory: pytest.TempPathFactory) -> Builds:
    """Compile hosts at most once a session."""
    return Builds(tmp_path_factory.mktemp("hosts"))


StartHost = Callable[[str], Host]


@pytest.fixture
def start_host(builds: Builds) -> Iterator[StartHost]:
    """Start a host of a kind; it ends with the test."""
    hosts: list[Host] = []

    def start(kind: str) -> Host:
        hosts.append(Host(builds.host(kind)))
        return hosts[-1]

    yield start
    for host in hosts:
        host.close()


CompilePatch = Callable[..., PatchFile]


@pytest.fixture
def compile_patch(tmp_path: Path) -> CompilePatch:
    """Compile C text to a patch with given flags, and open it."""
    shared = SharedObjects(tmp_path)

    def compile_(
        text: str, *flags: str, compiler: str = "gcc", replace: tuple[str, ...] = ()
    ) -> PatchFile:
        text = "#include <hotpatch.h>\n" + text
        path = shared(text, "-O2", "-g", "-Wall", *flags, compiler=compiler)
        return PatchFile.open(str(path), replace)

    return compile_
