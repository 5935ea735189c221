# SPDX-License-Identifier: GPL-2.0-or-later
"""Real files to read: those every system has, and small ones built in every way of linking."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from functools import cache

PROGRAM = """
#include <stdio.h>
#include <string.h>
#include <math.h>
static int counter;
static __thread int mine = 3;
__thread int ours;
int shared_variable = 7;
static const char *const words[] = {"one", "two", "three", "four", "five"};
const char *const *exported_words = words;
static int helper(const char *s) { return (int)strlen(s) + mine++; }
__attribute__((noinline)) int work(const char *s) { counter += helper(s); return counter; }
__attribute__((constructor)) static void first(void) { counter = 1; }
__attribute__((constructor)) static void second(void) { counter *= 3; }
__attribute__((destructor)) static void last(void) { printf("%d\\n", counter); }
__attribute__((noinline)) static int chosen(void) { return 1; }
static void *resolver(void) { return chosen; }
int by_cpu(void) __attribute__((ifunc("resolver")));
extern int not_there(void) __attribute__((weak));
int main(int argc, char **argv) {
    ours = argc + (not_there ? not_there() : 0);
    return work(argv[0]) + by_cpu() + (int)sqrt(argc) + (int)strlen(exported_words[argc % 5]);
}
"""

LIBRARY = """
__attribute__((visibility("hidden"))) int hidden_variable = 5;
__attribute__((visibility("protected"))) int protected_variable = 6;
int plain = 1;
int *pointers[] = {&plain, &plain, &hidden_variable, &hidden_variable};
__thread int per_thread = 1;
extern int elsewhere(void);
static int counter;
static void begin(void) { counter++; }
static void end(void) { counter--; }
__attribute__((section(".init_array"), used)) static void (*at_start)(void) = begin;
__attribute__((section(".fini_array"), used)) static void (*at_end)(void) = end;
int old_answer(void) { return 1; }
int new_answer(void) { return 2; }
__asm__(".symver old_answer, answer@V1");
__asm__(".symver new_answer, answer@@V2");
int caller(void) { return elsewhere() + plain + per_thread; }
void _init(void) { counter = 1; }
void _fini(void) { counter = 0; }
"""

VERSIONS = "V1 { global: plain; }; V2 { global: answer; } V1;\n"

LINKED = {
    "pie": ("-pie", "-fPIE"),
    "no-pie": ("-no-pie",),
    "static": ("-static",),
    "static-pie": ("-static-pie", "-fPIE"),
    "relr": ("-pie", "-fPIE", "-Wl,-z,pack-relative-relocs"),
    "stripped": ("-pie", "-fPIE", "-s"),
    "sysv-hash": ("-pie", "-fPIE", "-Wl,--hash-style=sysv"),
    "gnu-hash": ("-pie", "-fPIE", "-Wl,--hash-style=gnu", "-rdynamic"),
    "now": ("-pie", "-fPIE", "-Wl,-z,now", "-Wl,-z,relro", "-O2", "-g"),
    "lto": ("-pie", "-fPIE", "-O2", "-flto"),
}
SYSTEM = {
    "ls": "/bin/ls",
    "python": os.path.realpath(sys.executable),
    "libc": "libc.so.6",
    "loader": "ld-linux-x86-64.so.2",
}
EVERY = (*SYSTEM, *LINKED, "library", "library-gold", "object")

Compile = Callable[..., str]


def compile_c(directory: str, name: str, source: str, *flags: str) -> str:
    """Compile `source` (C, or assembler where `name` ends in .s) and return the file's path."""
    path, out = f"{directory}/{name}", f"{directory}/{name}.out"
    path = path if path.endswith(".s") else path + ".c"
    with open(path, "w") as file:
        file.write(source)
    subprocess.run(["gcc", "-o", out, path, *flags], check=True, capture_output=True)
    return out


@cache
def sample(directory: str, name: str) -> str:
    """Return the path of the sample called `name`, one of EVERY; built in `directory`."""
    if name in SYSTEM:
        return _system(SYSTEM[name])
    if name in LINKED:
        return compile_c(directory, name, PROGRAM, *LINKED[name], "-lm")
    if name == "object":
        return compile_c(directory, name, PROGRAM, "-c", "-ffunction-sections")
    return library(directory, name, *(["-fuse-ld=gold"] if name.endswith("gold") else []))


def library(directory: str, name: str, *flags: str) -> str:
    """Build LIBRARY, with its versions but without the C library."""
    script = f"{directory}/versions"
    with open(script, "w") as file:
        file.write(VERSIONS)
    flags = ("-shared", "-fPIC", "-nostdlib", f"-Wl,--version-script={script}", *flags)
    return compile_c(directory, name, LIBRARY, "-Wl,-soname,sample.so.1", *flags)


def without_sections(path: str) -> bytes:
    """Return the file with e_shoff, e_shnum and e_shstrndx zero, as `sstrip` leaves it."""
    with open(path, "rb") as file:
        data = bytearray(file.read())
    data[40:48] = bytes(8)
    data[60:64] = bytes(4)
    return bytes(data)


def _system(name: str) -> str:
    if name.startswith("/"):
        return os.path.realpath(name)
    found = subprocess.run(
        ["gcc", f"-print-file-name={name}"], check=True, capture_output=True, text=True
    )
    return os.path.realpath(found.stdout.strip())
