# SPDX-License-Identifier: GPL-2.0-or-later
"""Thread-local variables of the target are reached by every model of access, in every thread."""

from __future__ import annotations

import pytest

from hotpatch.errors import Refused
from tests.link.conftest import KINDS, LIBRARY_KINDS, WITH_LIBRARY, CompilePatch, StartHost

ALL_KINDS = {**KINDS, **LIBRARY_KINDS}

MODELS = {
    "general-dynamic": ("-ftls-model=global-dynamic",),
    "general-dynamic-no-plt": ("-ftls-model=global-dynamic", "-fno-plt"),
    "initial-exec": ("-ftls-model=initial-exec",),
    "descriptor": ("-mtls-dialect=gnu2",),
}
THREADS = ("call", "worker", "thread")

REPLACE = "int compute(int x) { return x + 2; } HOTPATCH_REPLACE(compute);\n"
PROGRAM = (
    REPLACE
    + """
    extern __thread int per_thread;
    HOTPATCH_EXTERN_STATIC_THREAD("render.c", int, column);
    long get(long x) { return per_thread + x; }
    long set(long x) { return per_thread = x; }
    long get_static(long x) { return column + x; }
    long both(long x) { per_thread += x; column += x; return per_thread * 1000 + column; }
    """
)
LIBRARY = (
    REPLACE
    + """
    extern __thread int lent_thread;
    HOTPATCH_EXTERN_STATIC_THREAD("lent.c", int, lent_private);
    long get(long x) { return lent_thread + x; }
    long set(long x) { lent_private += x; return lent_thread += x; }
    """
)
OPENED = (
    REPLACE
    + """
    extern __thread int opened_thread;
    long get(long x) { return opened_thread + x; }
    long add(long x) { return opened_thread += x; }
    """
)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("kind", KINDS)
def test_variables_of_the_program(
    kind: str, model: str, start_host: StartHost, compile_patch: CompilePatch
) -> None:
    host = start_host(kind)
    loaded = host.load(compile_patch(PROGRAM, *MODELS[model], compiler=_compiler(kind, model)))
    seen = [host.call(loaded.at("get"), 1, thread) for thread in THREADS]
    assert seen == [6, 51, 6]
    assert host.call(loaded.at("set"), 70) == 70
    assert [host.call(loaded.at("get"), 0, thread) for thread in THREADS] == [70, 50, 5]
    assert host.state()["per_thread"] == 70
    assert [host.call(loaded.at("get_static"), 1, thread) for thread in THREADS] == [10] * 3
    assert host.call(loaded.at("both"), 2, "worker") == 52_011
    assert host.state()["render"] == 1009, "the worker's is not the main thread's"


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("kind", [*WITH_LIBRARY, *LIBRARY_KINDS])
def test_variables_of_a_library(
    kind: str, model: str, start_host: StartHost, compile_patch: CompilePatch
) -> None:
    host = start_host(kind)
    patch = compile_patch(LIBRARY, *MODELS[model], compiler=_compiler(kind, model))
    if kind == "musl" and "general" not in model:
        # musl keeps the offset to itself, and this library's own code has no use for it.
        with pytest.raises(Refused, match=r"`lent_(thread|private)` of .* can't be reached"):
            host.load(patch)
        return
    loaded = host.load(patch)
    assert [host.call(loaded.at("get"), 1, thread) for thread in THREADS] == [9] * 3
    before = host.state()["lent"]
    assert host.call(loaded.at("set"), 100) == 108
    assert host.state()["lent"] == before + 200
    assert host.call(loaded.at("get"), 1, "worker") == 9


@pytest.mark.parametrize("kind", WITH_LIBRARY)
def test_variables_of_a_library_opened_later(
    kind: str, start_host: StartHost, compile_patch: CompilePatch
) -> None:
    host = start_host(kind)
    assert host.ask(f"open {host.path.parent / 'libopened.so'}") == "ok"
    host.process.refresh()
    flags = MODELS["general-dynamic"]
    loaded = host.load(compile_patch(OPENED, *flags, compiler=ALL_KINDS[kind].compiler))
    assert [host.call(loaded.at("get"), 1, thread) for thread in THREADS] == [22] * 3
    assert host.call(loaded.at("add"), 5, "worker") == 26
    assert [host.call(loaded.at("get"), 0, thread) for thread in THREADS] == [21, 26, 21]


@pytest.mark.parametrize("model", ["initial-exec", "descriptor"])
@pytest.mark.parametrize("kind", ["pie", "musl"])
def test_a_library_opened_later_has_no_fixed_place(
    kind: str, model: str, start_host: StartHost, compile_patch: CompilePatch
) -> None:
    host = start_host(kind)
    assert host.ask(f"open {host.path.parent / 'libopened.so'}") == "ok"
    host.process.refresh()
    patch = compile_patch(OPENED, *MODELS[model], compiler=_compiler(kind, model))
    with pytest.raises(Refused, match="opened_thread") as refusal:
        host.load(patch)
    assert "-mtls-dialect=gnu" in refusal.value.hint


@pytest.mark.parametrize("model", MODELS)
def test_errno(model: str, start_host: StartHost, compile_patch: CompilePatch) -> None:
    """errno itself, not by the function: its library has no general dynamic slots of its own."""
    host = start_host("pie")
    patch = compile_patch(
        REPLACE
        + """
        #include <unistd.h>
        extern int *__errno_location(void);
        __asm__(".symver real_errno, errno@GLIBC_PRIVATE");
        extern __thread int real_errno;
        long fail(long x) { close(-1); return real_errno * 1000 + *__errno_location(); }
        """,
        *MODELS[model],
        compiler="gcc",
    )
    loaded = host.load(patch)
    assert [host.call(loaded.at("fail"), 0, thread) for thread in THREADS] == [9009] * 3


def test_no_thread_local_in_the_target(start_host: StartHost, compile_patch: CompilePatch) -> None:
    host = start_host("pie")
    patch = compile_patch(REPLACE + "extern __thread int limit; long get(long x) { return limit; }")
    with pytest.raises(Refused, match="`limit` is thread-local in the patch, but not in the"):
        host.load(patch)


def test_thread_local_in_the_target_only(
    start_host: StartHost, compile_patch: CompilePatch
) -> None:
    host = start_host("pie")
    patch = compile_patch(
        REPLACE + "extern int per_thread; long get(long x) { return per_thread; }"
    )
    with pytest.raises(Refused, match="`per_thread` is thread-local in the target, but not in the"):
        host.load(patch)


def _compiler(kind: str, model: str) -> str:
    """clang has no descriptors on x86-64 before version 18."""
    compiler = ALL_KINDS[kind].compiler
    return "gcc" if compiler == "clang" and model == "descriptor" else compiler
