# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the jump goes in a function, and which functions are refused."""

from __future__ import annotations

import pytest

from hotpatch.arch.assembler import assemble
from hotpatch.errors import Refused
from hotpatch.redirect.entry import (
    Entry,
    Function,
    Stretch,
    Write,
    chained_entry,
    plan_entries,
    plan_entry,
)

BASE = 0x401000
GATE = 0x501000


def function(text: str, address: int = BASE, **more: object) -> Function:
    """Return a function of assembled `text`, in which bytes may be written as .byte."""
    return Function("f", address, assemble(text, address).code, **more)  # type: ignore[arg-type]


def gap(data: str, address: int) -> Stretch:
    return Stretch(address, bytes.fromhex(data))


def mnemonics(entry: Entry) -> list[str]:
    return [move.instruction.mnemonic for move in entry.displaced]


ENDBR64 = ".byte 0xf3, 0x0f, 0x1e, 0xfa\n"
PROLOGUE = "push rbp; mov rbp, rsp; mov dword ptr [rbp - 4], edi; pop rbp; ret"


def test_the_jump_takes_the_first_five_bytes() -> None:
    entry = plan_entry(function(PROLOGUE))
    assert entry.overwritten == range(BASE, BASE + 5)
    assert entry.original == bytes.fromhex("55 48 89 e5 89")
    assert mnemonics(entry) == ["push", "mov", "mov"]
    assert entry.resume == BASE + 7
    assert entry.arm_writes(GATE) == (Write(BASE, bytes.fromhex("e9 fb ff 0f 00")),)
    assert entry.disarm_writes() == (Write(BASE, entry.original),)
    assert entry.retarget_writes(GATE + 16) == (Write(BASE + 1, bytes.fromhex("0b 00 10 00")),)


def test_endbr64_stays() -> None:
    entry = plan_entry(function(ENDBR64 + PROLOGUE))
    assert entry.overwritten == range(BASE + 4, BASE + 9)
    assert entry.resume == BASE + 11


@pytest.mark.parametrize("nops", ["nop;" * 8, ".byte 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0"])
def test_a_sled_of_nops_takes_the_jump(nops: str) -> None:
    entry = plan_entry(function(f"{ENDBR64}{nops}\n{PROLOGUE}"))
    assert entry.overwritten == range(BASE + 4, BASE + 9)
    assert set(mnemonics(entry)) == {"nop"}


def test_nothing_follows_a_jump_return_or_trap() -> None:
    for text in ("jmp 0x501000", "xor eax, eax; inc eax; ret; nop; nop", "mov eax, 1; ud2"):
        entry = plan_entry(function(text))
        assert mnemonics(entry)[-1] in ("jmp", "ret", "mov")
        assert (entry.resume is None) == (mnemonics(entry)[-1] != "mov")


@pytest.mark.parametrize("padding", ["90 90 90 90", "0f 1f 40 00", "cc cc cc cc", "00 00 00 00"])
def test_a_function_shorter_than_the_jump_uses_the_padding_behind_it(padding: str) -> None:
    short = function("xor eax, eax; ret", gaps=(gap(padding, BASE + 3),))
    entry = plan_entry(short)
    assert entry.overwritten == range(BASE, BASE + 5)
    assert entry.original == short.code + bytes.fromhex(padding)[:2]
    assert mnemonics(entry) == ["xor", "ret"]


@pytest.mark.parametrize(
    ("padding", "address"),
    [("90", BASE + 3), ("90 90 c3 90 90", BASE + 3), ("55 48 89 e5 90", BASE + 3),
     ("90 90 90 90", BASE + 16)],
    ids=["too little", "code in it", "a function without a name", "not right behind"],
)  # fmt: skip
def test_a_function_shorter_than_the_jump_is_refused_without(padding: str, address: int) -> None:
    with pytest.raises(Refused, match="shorter than a jump"):
        plan_entry(function("xor eax, eax; ret", gaps=(gap(padding, address),)))


def test_a_function_shorter_than_the_jump_uses_an_island_before_it() -> None:
    entry = plan_entry(function("xor eax, eax; ret", gaps=(gap("90" * 8, BASE - 8),)))
    assert entry.overwritten == range(BASE, BASE + 2)
    assert entry.island == Stretch(BASE - 8, b"\x90" * 5)
    assert entry.arm_writes(GATE) == (
        Write(BASE - 8, bytes.fromhex("e9 03 00 10 00")),
        Write(BASE, bytes.fromhex("eb f6")),
    )
    assert entry.disarm_writes() == (Write(BASE, b"\x31\xc0"), Write(BASE - 8, b"\x90" * 5))


def test_a_thread_at_the_first_byte_of_an_island_is_inside_it() -> None:
    entry = plan_entry(function("xor eax, eax; ret", gaps=(gap("90" * 8, BASE - 8),)))
    jump, island = entry.guarded
    assert jump == range(BASE, BASE + 2)
    assert island.start < BASE - 8


REFUSED = {
    "no size": ("", "size of its code is not known"),
    "no instruction": (".byte 0x06, 0x06, 0x06, 0x06, 0x06, 0x06", "no known instruction: 06 06"),
    "loop into the jump": ("xor eax, eax; l: inc eax; cmp eax, edi; jne l; ret",
                           "branches into the bytes.*0x401006: 75 fa  jne 0x401002"),
    "loop32 into the jump": ("xor eax, eax; l: inc eax; .skip 200, 0x90; jmp l",
                             "branches into the bytes.*jmp 0x401002"),
    "loop instruction": ("xor eax, eax; l: inc eax; loop l; ret", "branches into .*loop"),
    "call into the jump": ("mov eax, edi; l: push rax; push rax; push rax; push rax; call l; ret",
                           "branches into .*call"),
    "displaced branch": ("test edi, edi; je l; l: inc eax; ret", "branches into .*je 0x401004"),
    "transaction": ("push rax; .byte 0xc7, 0xf8, 0xf9, 0x0f, 0, 0; ret",
                    "xbegin 0x402000 begins a transaction"),
    "call in the way": ("call rax; mov rax, rbx; ret", "call rax returns into"),
    "breakpoint": (".byte 0xcc; mov rbp, rsp; ret; nop; nop", "breakpoint"),
    "cut off": (".byte 0x48, 0x8b, 0x05, 0, 0", "no known instruction"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "why"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_redirected_is_refused_with_its_reason(text: str, why: str) -> None:
    with pytest.raises(Refused, match=why) as refusal:
        plan_entry(function(text))
    assert refusal.value.function == "f" and refusal.value.hint


def test_a_branch_into_the_jump_is_avoided_with_an_island() -> None:
    loop = "xor eax, eax; l: inc eax; cmp eax, edi; jne l; ret"
    entry = plan_entry(function(loop, gaps=(gap("90" * 8, BASE - 8),)))
    assert entry.overwritten == range(BASE, BASE + 2)
    assert mnemonics(entry) == ["xor"] and entry.resume == BASE + 2


def test_a_fragment_that_branches_into_the_jump_is_seen() -> None:
    cold = Stretch(0x403000, assemble("nop; jmp 0x401001", 0x403000).code)
    with pytest.raises(Refused, match=r"branches into the bytes.*0x403001"):
        plan_entry(function(PROLOGUE, fragments=(cold,)))


def test_bytes_that_only_look_like_a_branch_do_not_count() -> None:
    # The immediate holds `jmp short` to BASE + 3.
    look_alike = "push rbp; mov rbp, rsp; mov eax, 0xfceb; pop rbp; ret"
    assert plan_entry(function(look_alike)).overwritten == range(BASE, BASE + 5)
    with pytest.raises(Refused, match="branches into"):
        plan_entry(function("push rbp; mov rbp, rsp; nop; .byte 0xeb, 0xfc; pop rbp; ret"))


def test_code_that_cannot_be_decoded_to_the_end_is_not_trusted() -> None:
    junk = ".byte 0x06, 0xe9, 0xf2, 0xff, 0xff, 0xff"  # a jump to BASE + 2 behind no instruction
    with pytest.raises(Refused, match="branches into"):
        plan_entry(function(f"push rbp; mov rbp, rsp; pop rbp; ret; nop; nop; nop; {junk}"))


def test_a_symbol_in_the_way_is_refused() -> None:
    with pytest.raises(Refused, match="another symbol"):
        plan_entry(function(PROLOGUE, labels=(BASE + 4,)))
    assert plan_entry(function(PROLOGUE, labels=(BASE, BASE + 5))).overwritten.start == BASE


def test_a_loop_back_to_the_entry_is_reported() -> None:
    loop = "l: movzx eax, byte ptr [rdi]; inc rdi; test al, al; jne l; ret"
    assert plan_entry(function(loop)).reentries == (BASE + 8,)
    assert plan_entry(function(ENDBR64 + loop)).reentries == (BASE + 12,)
    recursive = f"{PROLOGUE}; push rax; call 0x401000; ret"
    assert plan_entry(function(recursive)).reentries == ()


def test_a_switch_that_continues_under_the_jump_is_seen() -> None:
    table = 0x402000
    text = f"push rbx; l: lea rcx, [rip + {table - BASE - 8:#x}]; movsxd rax, dword ptr [rcx + rax*4]; add rax, rcx; jmp rax"  # noqa: E501
    entries = [BASE + 8, BASE + 1, BASE + 9]

    def read(address: int, size: int) -> bytes:
        data = b"".join((e - table).to_bytes(4, "little", signed=True) for e in entries)
        if not table <= address < table + 4096:
            raise OSError
        return (data + bytes(4096))[address - table :][:size]

    with pytest.raises(Refused, match=f"a table, at {table + 4:#x}, leads into"):
        plan_entry(function(text, read=read))
    entries[1] = BASE + 8
    assert plan_entry(function(text, read=read)).reentries == ()
    entries[:2] = [BASE + 0x800, BASE + 1]  # not a table of this function
    assert plan_entry(function(text, read=read)).reentries == ()
    entries[:2] = [BASE + 8, BASE]
    assert plan_entry(function(text, read=read)).reentries == (table + 4,)


def test_two_entries_do_not_use_the_same_padding() -> None:
    between = gap("90" * 13, BASE + 3)
    first = function("xor eax, eax; ret", gaps=(between,))
    second = function("xor eax, eax; ret", BASE + 16, gaps=(between,))
    entries = plan_entries([first, second])
    taken = [set(claim) for entry in entries for claim in entry.claims]
    assert sum(map(len, taken)) == len(set.union(*taken))
    assert entries[1].island is not None


def chain_bytes(entry: Entry, code: bytes, gate: int) -> bytes:
    """Return the function's bytes after an entry was armed."""
    armed = bytearray(code)
    for write in entry.arm_writes(gate):
        if BASE <= write.address < BASE + len(code):
            armed[write.address - BASE : write.address - BASE + len(write.data)] = write.data
    return bytes(armed)


@pytest.mark.parametrize("text", [PROLOGUE, ENDBR64 + PROLOGUE, "nop; nop; " + PROLOGUE])
def test_a_second_gate_leads_to_the_first(text: str) -> None:
    plain = function(text)
    armed = chain_bytes(plan_entry(plain), plain.code, GATE)
    entry = chained_entry("f", BASE, armed, GATE)
    assert (entry.displaced, entry.resume) == ((), GATE)
    assert [w.address for w in entry.arm_writes(GATE + 64)] == [entry.jump]
    assert chain_bytes(entry, armed, GATE + 64) == chain_bytes(
        plan_entry(plain), plain.code, GATE + 64
    )
    assert entry.disarm_writes() == (Write(entry.jump, armed[entry.jump - BASE :][:5]),)


def test_a_second_gate_uses_the_island_of_the_first() -> None:
    short = function("xor eax, eax; ret", gaps=(gap("90" * 8, BASE - 8),))
    first = plan_entry(short)
    entry = chained_entry("f", BASE, chain_bytes(first, short.code, GATE), GATE)
    (write,) = entry.arm_writes(GATE + 64)
    assert write.address in range(BASE - 8, BASE - 3)
    assert entry.guarded == first.guarded


@pytest.mark.parametrize("text", [PROLOGUE, "jmp 0x601000"])
def test_an_entry_that_leads_elsewhere_is_no_chain(text: str) -> None:
    with pytest.raises(Refused, match="another tool"):
        chained_entry("f", BASE, function(text).code, GATE)


def test_a_loop_back_to_a_redirected_entry_is_still_reported() -> None:
    loop = function("l: movzx eax, byte ptr [rdi]; inc rdi; test al, al; jne l; ret")
    first = plan_entry(loop)
    entry = chained_entry("f", BASE, chain_bytes(first, loop.code, GATE), GATE)
    assert entry.reentries == first.reentries != ()
