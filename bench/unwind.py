# SPDX-License-Identifier: GPL-2.0-or-later
"""What unwinding costs a frame, with the threads of a process held.

    python bench/unwind.py [PID]

Without PID, a Python with a recursion of 100 calls in each of 20 threads is started. `cold` is the
first time, when the call frame information of each place has yet to be found; `copied` is
warm, with stacks that were copied before.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from hotpatch.arch.registers import Registers
from hotpatch.linux.priority import undisturbed
from hotpatch.linux.threads import Hold
from hotpatch.process.image import Process
from hotpatch.quiescence.unwind import Stack, Unwinder

Read = Callable[[int, int], bytes]
ROUNDS = 20
DEEP = """
import os, sys, threading, time
def deep(n):
    return max([n], key=lambda m: deep(m - 1)) if n else time.sleep(600)
for _ in range(20):
    threading.Thread(target=deep, args=(100,), daemon=True).start()
print("ready", flush=True)
sys.stdin.read()
"""


@contextmanager
def deep_python() -> Iterator[int]:
    """Run the program above; the pid."""
    command = [sys.executable, "-c", DEEP]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        child.stdout.readline()
        yield child.pid
    finally:
        child.kill()
        child.communicate()


def copy_of(process: Process, registers: Registers, stack: Stack) -> Read:
    """Return how to read the frames of a stack from a copy."""
    start = registers.rsp - 128
    copy = process.read(start, max(frame.cfa for frame in stack.frames) - start)

    def read(address: int, size: int) -> bytes:
        if address < start:
            return process.read(address, size)
        return copy[address - start : address - start + size]

    return read


def measure(unwinder: Unwinder, work: list[tuple[Registers, Read]], rounds: int) -> float:
    """Return the best time a frame, in µs."""
    best = float("inf")
    for _ in range(rounds):
        began = time.perf_counter_ns()
        frames = sum(len(unwinder.unwind(registers, read).frames) for registers, read in work)
        best = min(best, (time.perf_counter_ns() - began) / 1e3 / frames)
    return best


def bench(pid: int) -> None:
    """Print the figures for one process."""
    with Process(pid) as process, undisturbed(), Hold(pid) as hold:
        len(process.modules), len(process.patches)
        held = [thread.registers for thread in hold.threads.values()]
        live: list[tuple[Registers, Read]] = [(registers, process.read) for registers in held]
        cold = measure(Unwinder(process), live, 1)
        unwinder = Unwinder(process)
        stacks = [unwinder.unwind(registers, process.read) for registers in held]
        warm = measure(unwinder, live, ROUNDS)
        copies = [(r, copy_of(process, r, s)) for r, s in zip(held, stacks, strict=True)]
        copied = measure(unwinder, copies, ROUNDS)
    frames = sum(len(stack.frames) for stack in stacks)
    whole = sum(stack.complete for stack in stacks)
    places = len({frame.pc for stack in stacks for frame in stack.frames})
    print(f"{len(stacks)} threads, {whole} of them whole, {frames} frames, {places} pc's")
    print(f"cold   {cold:6.1f} µs a frame, {(cold - warm) * frames / places:.0f} µs a new place")
    print(f"warm   {warm:6.1f} µs a frame")
    print(f"copied {copied:6.1f} µs a frame")


def main() -> None:
    """Measure the process of the command line, or one started for it."""
    if len(sys.argv) > 1:
        bench(int(sys.argv[1]))
        return
    with deep_python() as pid:
        bench(pid)


if __name__ == "__main__":
    main()
