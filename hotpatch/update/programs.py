# SPDX-License-Identifier: GPL-2.0-or-later
"""The programs for borrowed threads, assembled: each ends in trampolines/x86_64/home.S."""

from __future__ import annotations

from hotpatch.arch.assembler import assemble, source
from hotpatch.linux.remote import Program


def program(name: str, address: int, uses_fpu: bool) -> tuple[Program, bytes]:
    """Return a file of trampolines/x86_64/ as a program for `address`, and its code."""
    code, labels = assemble(source(name) + source("home.S"), address)
    return Program(address, labels["asleep"], uses_fpu), code


def transfer_program(address: int, job: int) -> tuple[dict[str, int], bytes]:
    """Return the labels of trampolines/x86_64/transfer.S and parking.S, and their code.

    `job` is where the job lies that they work on.
    """
    code, labels = assemble(source("transfer.S") + source("home.S"), address, job=job)
    parking = address + len(code)
    parked, _ = assemble(source("parking.S"), parking, job=job)
    return {**labels, "parking": parking}, code + parked
