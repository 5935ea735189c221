# SPDX-License-Identifier: GPL-2.0-or-later
"""Assembling the code that is put into a target; the only place that imports keystone.

The sources lie under `trampolines/x86_64/`, in Intel syntax. A symbol that a source doesn't
define is passed by keyword and is an absolute address or a number everywhere: in jumps, in
`[rip + symbol]`, in `.quad symbol` and as an immediate.

    assemble("parking.S", address, word=0x7f0000001000).labels["release"]

Keystone takes `/* */` comments, labels, `.balign`, `.skip`, `.long` and `.quad`; it knows
neither `endbr64` nor `notrack` (write `.byte`) and reads `;` as the end of a statement. Two
of its ways are undone here, so that sources mean what they mean to GNU as: it takes a number
without `0x` as hexadecimal, and `[rip + number]` as a displacement, not as an address.
(`movabs reg, symbol` loads the address, what GNU as would write `offset symbol`.)

Code that is needed a thousand times is a `Template`: assembled a few times to see which bytes
depend on which symbol, then filled in without keystone (a microsecond instead of 50).
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Callable, Sequence
from functools import cache, cached_property
from typing import NamedTuple

ARCH = "x86_64"

_COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)
_LABEL = re.compile(r"^[ \t]*([A-Za-z_]\w*):", re.MULTILINE)
_RIP_OPERAND = re.compile(r"\[\s*rip\s*\+\s*([A-Za-z_]\w*)\s*\]")
_DECIMAL = re.compile(r"(?<![\w.])\d+(?![\w:])")
# Displacements that stand for `[rip + symbol]` until the instruction's end is known.
_PLACEHOLDER = 0x5EEDC000
# Where a template is assembled, and its symbols: so far away that no jump is shortened to 8 bits.
_BASE, _VALUE, _STEP = 0x10000000, 0x20000000, 0x01010101


class AssemblyError(ValueError):
    """A source that can't be assembled, or a symbol that is out of reach of its use."""


class Code(NamedTuple):
    """Machine code: its bytes, and the absolute address of each label."""

    code: bytes
    labels: dict[str, int]


class Field(NamedTuple):
    """Bytes that hold `symbol` + `addend`, less the template's address where `relative`."""

    symbol: str
    offset: int
    size: int
    relative: bool
    addend: int


class _RipOperand(NamedTuple):
    """The operand `[rip + symbol]` of a statement of an assembly text."""

    number: int
    symbol: str

    @property
    def placeholder(self) -> int:
        return _PLACEHOLDER + self.number


class Template:
    """Code of a file with symbols left open; `labels` are offsets into it.

    To know its size takes one assembly; the others are made when it is filled for the first time.
    """

    def __init__(self, name: str, symbols: Sequence[str]) -> None:
        """Assemble the file `name`; raises AssemblyError."""
        self._name = name
        self._values = dict.fromkeys(symbols, _VALUE)
        self.code, labels = assemble(name, _BASE, **self._values)
        self.labels = {label: place - _BASE for label, place in labels.items()}

    def fill(self, address: int, **symbols: int) -> bytes:
        """Return the code for `address`; OverflowError where a symbol is out of reach."""
        code = bytearray(self.code)
        for name, offset, size, relative, addend in self._fields:
            value = symbols[name] + addend - (address if relative else 0)
            code[offset : offset + size] = _encode(value, size, signed=relative)
        return bytes(code)

    @cached_property
    def _fields(self) -> tuple[Field, ...]:
        """What depends on a symbol; its fields are of 8 bytes if a value beyond 32 bits fits.

        Each symbol is moved by a distance of its own, which changes all four bytes of a field.
        """
        symbols = list(self._values)
        moved = {symbol: _VALUE + _STEP * n for n, symbol in enumerate(symbols, 1)}
        after = assemble(self._name, _BASE, **moved).code
        shift = _STEP * (len(symbols) + 1)
        shifted = {symbol: value + shift for symbol, value in moved.items()}
        elsewhere = assemble(self._name, _BASE + shift, **shifted).code
        fields: list[Field] = []
        for offset in _changed(self.code, after)[::4]:
            distance = _number(after, offset) - _number(self.code, offset)
            symbol = symbols[distance % (1 << 32) // _STEP - 1]
            relative = after[offset : offset + 4] == elsewhere[offset : offset + 4]
            size = 8 if not relative and self._takes_64_bits(symbol) else 4
            (value,) = struct.unpack_from("<i" if size == 4 else "<q", self.code, offset)
            addend = value - _VALUE + (_BASE if relative else 0)
            fields.append(Field(symbol, offset, size, relative, addend))
        return tuple(fields)

    def _takes_64_bits(self, symbol: str) -> bool:
        try:
            wide = self._with(symbol, 1 << 32)
        except AssemblyError:
            return False
        return len(wide) == len(self.code) and wide != self.code

    def _with(self, symbol: str, step: int) -> bytes:
        """Return the code as it is with another value of a symbol."""
        return assemble(self._name, _BASE, **{**self._values, symbol: _VALUE + step}).code


def source(name: str) -> str:
    """Return the text of the assembly file `name` (such as `gate.S`)."""
    package = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
    for root in (package, os.path.dirname(package)):
        path = os.path.join(root, "trampolines", ARCH, name)
        if os.access(path, os.R_OK):
            with open(path, encoding="utf-8") as file:
                return file.read()
    raise FileNotFoundError(f"no trampolines/{ARCH}/{name} beside or inside {package}")


def assemble(name_or_text: str, address: int, **symbols: int) -> Code:
    """Assemble a file of `trampolines/` (`*.S`) or a text for `address`.

    Raises AssemblyError for text that keystone rejects and for symbols out of reach.
    """
    text = _statements(name_or_text)
    labels = _LABEL.findall(text)
    text, operands = _hide_rip_operands(text, symbols)
    names = labels + [f"{edge}_{o.number}" for o in operands for edge in ("begin", "end")]
    settings = "".join(f".set {name}, {value:#x}\n" for name, value in symbols.items())
    table = "".join(f"\n.quad {name}" for name in names)
    data = _keystone(settings + text + table, address)
    size = len(data) - 8 * len(names)
    places = dict(zip(names, struct.unpack_from(f"<{len(names)}Q", data, size), strict=True))
    code = bytearray(data[:size])
    for operand in operands:
        begin, end = places[f"begin_{operand.number}"], places[f"end_{operand.number}"]
        _resolve(code, operand, range(begin - address, end - address), address, symbols)
    return Code(bytes(code), {name: places[name] for name in labels})


@cache
def _statements(name_or_text: str) -> str:
    """Return a source as keystone is to read it: without comments, and numbers in hexadecimal."""
    text = source(name_or_text) if name_or_text.endswith(".S") else name_or_text
    text = _COMMENT.sub(" ", text).replace(";", "\n")
    return _DECIMAL.sub(lambda number: hex(int(number[0])), text)


@cache
def template(name: str, *symbols: str) -> Template:
    """Return the file `name` as a template with the open `symbols`."""
    return Template(name, symbols)


def _number(code: bytes, offset: int) -> int:
    return int.from_bytes(code[offset : offset + 4], "little")


def _changed(one: bytes, other: bytes) -> list[int]:
    if len(one) != len(other):
        raise AssemblyError("the size of this code depends on a symbol: no template can be made")
    return [offset for offset, (a, b) in enumerate(zip(one, other, strict=True)) if a != b]


def _hide_rip_operands(text: str, symbols: dict[str, int]) -> tuple[str, list[_RipOperand]]:
    """Put placeholders for `[rip + symbol]`, and labels around each such statement."""
    lines: list[str] = []
    operands: list[_RipOperand] = []
    for line in text.splitlines():
        found = _RIP_OPERAND.search(line)
        if found is None or found[1] not in symbols:
            lines.append(line)
            continue
        operand = _RipOperand(len(operands), found[1])
        operands.append(operand)
        hidden = _RIP_OPERAND.sub(f"[rip + {operand.placeholder:#x}]", line)
        lines += [f"begin_{operand.number}:", hidden, f"end_{operand.number}:"]
    return "\n".join(lines), operands


def _resolve(
    code: bytearray, operand: _RipOperand, place: range, address: int, symbols: dict[str, int]
) -> None:
    """Put the displacement in the place of its placeholder; an immediate may follow it."""
    placeholder = struct.pack("<i", operand.placeholder)
    displacement = symbols[operand.symbol] - (address + place.stop)
    try:
        struct.pack_into("<i", code, code.index(placeholder, place.start, place.stop), displacement)
    except struct.error:
        raise AssemblyError(f"{operand.symbol} is out of reach by {displacement:#x}") from None


def _encode(value: int, size: int, signed: bool) -> bytes:
    low, high = (-(1 << 8 * size - 1), 1 << 8 * size - 1) if signed else (0, 1 << 8 * size)
    if not low <= value < high:
        raise OverflowError(f"{value:#x} does not fit a field of {size} bytes")
    return (value & (1 << 8 * size) - 1).to_bytes(size, "little")


@cache
def _engine() -> Callable[[str, int], bytes]:
    """Return what assembles; the package only where its library can't be had without."""
    from hotpatch.arch.libkeystone import open_engine  # noqa: PLC0415

    engine = open_engine()
    if engine is not None:
        return engine.assemble
    import keystone  # noqa: PLC0415 - 30 ms

    package = keystone.Ks(keystone.KS_ARCH_X86, keystone.KS_MODE_64)
    package.syntax = keystone.KS_OPT_SYNTAX_INTEL
    return lambda text, address: package.asm(text, address, as_bytes=True)[0] or b""


def _keystone(text: str, address: int) -> bytes:
    assemble_text = _engine()
    try:
        return assemble_text(text, address)
    except Exception as error:
        raise AssemblyError(f"{error} in:\n{text}") from None
