# SPDX-License-Identifier: GPL-2.0-or-later
"""Layouts of random structs, as their own program knows them, against what DWARF says of them."""

from __future__ import annotations

import random
import re
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hotpatch.dwarf.cursor import DwarfError
from hotpatch.dwarf.names import Names
from hotpatch.dwarf.spelling import spell
from hotpatch.dwarf.types import Types
from hotpatch.elf.file import ElfError, ElfFile

PLAIN = ["char", "short", "int", "long", "unsigned char", "unsigned", "float", "double", "_Bool",
         "void *", "enum mood", "struct s0 *", "int (*)(char, long)", "union u0"]  # fmt: skip
STRUCTS = 40


def members(chance: random.Random, number: int) -> list[tuple[str, str, int]]:
    """Return name, type, and the bits of a bit-field or 0, of the members of one struct."""
    found = []
    for index in range(chance.randint(1, 9)):
        bits = chance.choice([0, 0, 0, 0, chance.randint(1, 20)])
        kinds = ["int", "unsigned", "long"] if bits else PLAIN
        kind = chance.choice(kinds)
        if not bits and number and chance.random() < 0.2:
            kind = f"struct s{chance.randrange(number)}"
        if not bits and chance.random() < 0.2:
            kind += f"[{chance.randint(1, 5)}]"
        found.append((f"m{index}", kind, bits))
    return found


def declaration(name: str, kind: str, bits: int) -> str:
    """Return a member as C has it."""
    if "(*)" in kind:
        base, _, counts = kind.partition("[")
        return base.replace("(*)", f"(*{name}{'[' + counts if counts else ''})")
    base, _, counts = kind.partition("[")
    return f"{base} {name}" + (f"[{counts}" if counts else "") + (f" : {bits}" if bits else "")


def source(chance: random.Random) -> tuple[str, list[list[tuple[str, str, int]]]]:
    """Return a program that prints the layout of its structs."""
    structs = [members(chance, number) for number in range(STRUCTS)]
    text = "#include <stddef.h>\n#include <stdio.h>\n#include <string.h>\n"
    text += "enum mood { GOOD, BAD = 7, WORSE };\nunion u0 { long a; char b[3]; };\n"
    body = ""
    for number, rows in enumerate(structs):
        fields = " ".join(declaration(*row) + ";" for row in rows)
        text += f"struct s{number} {{ {fields} }} v{number};\n"
        body += f'printf("s{number} %zu\\n", sizeof(struct s{number}));\n'
        for name, _, bits in rows:
            if bits:
                body += f"memset(&v{number}, 0, sizeof v{number}); v{number}.{name} = -1;\n"
                body += f"bits(&v{number}, sizeof v{number});\n"
            else:
                body += f'printf("%zu\\n", 8 * offsetof(struct s{number}, {name}));\n'
    text += """static void bits(const void *at, size_t size) {
    const unsigned char *bytes = at; size_t first = 8 * size, count = 0;
    for (size_t i = 0; i < 8 * size; i++) if (bytes[i / 8] >> i % 8 & 1) {
        if (i < first) first = i;
        count++; }
    printf("%zu+%zu\\n", first, count); }
"""
    return f"{text}int main(void) {{\n{body}return 0; }}\n", structs


@pytest.mark.parametrize("version", ["4", "5"])
@pytest.mark.parametrize("compiler", ["gcc", "clang"])
@pytest.mark.parametrize("more", [[], ["-fdebug-types-section"], ["-O2"]])
def test_layouts(compiler: str, version: str, more: list[str], tmp_path: Path) -> None:
    if "-fdebug-types-section" in more and version == "4":
        pytest.skip("types are in .debug_types then, which nothing here reads")
    text, structs = source(random.Random(f"{compiler}{version}{more}"))
    (tmp_path / "structs.c").write_text(text)
    command = [compiler, f"-gdwarf-{version}", "-w", *more, "structs.c", "-o", "structs"]
    subprocess.run(command, cwd=tmp_path, check=True)
    printed = subprocess.run([tmp_path / "structs"], capture_output=True, text=True, check=True)
    lines = iter(printed.stdout.splitlines())
    names = Names(Types(ElfFile.open(str(tmp_path / "structs"))))
    for number, rows in enumerate(structs):
        ref = names.definitions(f"struct s{number}")[0]
        found = names.types.get(ref)
        assert next(lines) == f"s{number} {found.size}"
        assert [m.name for m in found.members] == [name for name, _, _ in rows]
        for member, (_, kind, bits) in zip(found.members, rows, strict=True):
            wanted = next(lines)
            where = f"{member.offset}+{member.bits}" if bits else str(member.offset)
            assert where == wanted
            spelled = spell(names.types, member.type).replace(" ", "")
            assert simplified(spelled) == simplified(kind.replace(" ", ""))


def simplified(kind: str) -> str:
    """Return a type's spelling as it is the same for all compilers, and without dimensions.

    Where these stand depends on the type; their number is part of the offsets that follow.
    """
    known = {"unsignedint": "unsigned", "longint": "long", "shortint": "short"}
    for long, short in known.items():
        kind = kind.replace(long, short)
    return re.sub(r"\[\d+\]", "", kind)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A small program with types."""
    directory = tmp_path_factory.mktemp("damage")
    text, _ = source(random.Random(1))
    (directory / "structs.c").write_text(text)
    command = ["gcc", "-g", "-w", "structs.c", "-o", "structs"]
    subprocess.run(command, cwd=directory, check=True)
    return (directory / "structs").read_bytes()


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_damage(program: bytes, data: st.DataObject) -> None:
    elf = ElfFile.from_bytes(program)
    sections = [s for s in elf.sections if s.name in (".debug_info", ".debug_abbrev", ".debug_str")]
    broken = bytearray(program)
    for _ in range(data.draw(st.integers(1, 4))):
        section = data.draw(st.sampled_from(sections))
        at = section.offset + data.draw(st.integers(0, section.size - 1))
        broken[at] = data.draw(st.integers(0, 255))
    names = Names(Types(ElfFile.from_bytes(bytes(broken))))
    try:
        for tag in names.tags():
            for ref in names.definitions(tag):
                found = names.types.get(ref)
                names.types.size(ref)
                for member in found.members:
                    spell(names.types, member.type)
        for name in names.all_objects():
            names.variables(name)
    except (DwarfError, ElfError):
        pass
