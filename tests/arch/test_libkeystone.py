# SPDX-License-Identifier: GPL-2.0-or-later
"""Assembling without the package `keystone` is assembling as with it, or not done at all."""

from __future__ import annotations

from collections.abc import Iterator

import keystone
import pytest

from hotpatch.arch import assembler, libkeystone
from tests.support.programs import ROOT

SOURCES = sorted((ROOT / "trampolines" / "x86_64").glob("*.S"))
SYMBOLS = dict.fromkeys(
    (
        *("switch", "old", "new", "wait", "door", "deadline", "target", "return_slot", "real"),
        *("job", "cue", "asleep", "no_signals", "timeout"),
    ),
    0x10000040,
)


@pytest.fixture
def fresh() -> Iterator[None]:
    """Whatever assembler was chosen is chosen again."""
    assembler._engine.cache_clear()
    yield
    assembler._engine.cache_clear()


@pytest.fixture
def engine() -> libkeystone.Engine:
    """What is tested."""
    found = libkeystone.open_engine()
    assert found is not None
    return found


@pytest.fixture
def package() -> keystone.Ks:
    """What it is tested against."""
    return keystone.Ks(keystone.KS_ARCH_X86, keystone.KS_MODE_64)


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize("name", [path.name for path in SOURCES])
def test_it_assembles_what_the_package_does(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    symbols = {s: v for s, v in SYMBOLS.items() if f"\n{s}:" not in assembler.source(name)}
    code = assembler.assemble(name, 0x10000000, **symbols)
    assembler._engine.cache_clear()
    monkeypatch.setattr(libkeystone, "open_engine", lambda: None)
    assert code == assembler.assemble(name, 0x10000000, **symbols)
    assert code.code


def test_nothing(engine: libkeystone.Engine) -> None:
    assert engine.assemble("", 0) == b""
    assert engine.assemble("# a remark\n", 0) == b""


@pytest.mark.parametrize("text", ["no such thing", "mov eax", "jmp nowhere"])
def test_it_refuses_what_the_package_refuses(
    text: str, engine: libkeystone.Engine, package: keystone.Ks
) -> None:
    with pytest.raises(keystone.KsError) as theirs:
        package.asm(text, 0x1000)
    with pytest.raises(ValueError) as ours:
        engine.assemble(text, 0x1000)
    assert str(ours.value) == str(theirs.value)
    assert engine.assemble("ret", 0x1000) == b"\xc3"


@pytest.mark.usefixtures("fresh")
def test_the_package_where_the_library_has_another_version(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(libkeystone, "_VERSION", 99)
    assert libkeystone.open_engine() is None
    assert assembler.assemble("nop", 0).code == b"\x90"


@pytest.mark.usefixtures("fresh")
def test_the_package_where_it_has_no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libkeystone, "load", lambda *_: None)
    assert libkeystone.open_engine() is None
    assert assembler.assemble("nop", 0).code == b"\x90"
