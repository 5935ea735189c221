# SPDX-License-Identifier: GPL-2.0-or-later
"""Plans and results as text for people, and plans as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hotpatch.update.plan import Plan
    from hotpatch.update.result import Result

SHORT_ID = 12


def result_text(result: Result, verbose: bool) -> str:
    """Return what an update came to."""
    preposition = "to" if result.status == "applied" else "from"
    lines = [
        f"{result.status} {result.patch.name} ({result.patch.id[:SHORT_ID]}) {preposition} "
        f"process {result.pid}"
    ]
    lines += table([(f"  {f.name}", f"{f.old} -> {f.new}", f.module) for f in result.functions])
    lines += [f"  the patch says: {message}" for message in result.messages]
    if result.rehearsal:
        took = result.rehearsal
        lines.append(
            f"  rehearsed in {milliseconds(took.us)}, {took.logged} bytes changed, "
            f"{took.private_kib} KiB of memory for it"
        )
    if verbose:
        lines += [f"  stop to {stop.phase}: {milliseconds(stop.us)}" for stop in result.stops]
    lines.append(
        f"  longest pause {milliseconds(result.pause_us)}, {count(result.threads, 'thread')}, "
        f"{count(result.attempts, 'attempt')}, {result.elapsed_ms} ms in all"
    )
    return "\n".join(lines)


def milliseconds(us: int) -> str:
    """Return a time in µs as text."""
    return f"{us / 1000:.2f} ms"


def count(number: int, noun: str) -> str:
    """Return "1 thread" or "2 threads"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows as lines, their columns aligned."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def plan_fields(plan: Plan) -> dict[str, Any]:
    """Return a plan as the JSON object of `check`."""
    return {
        "status": "ok",
        "pid": plan.pid,
        "patch": {"id": plan.id, "name": plan.name},
        "functions": [
            {
                "name": f.name,
                "module": f.module,
                "old": hex(f.old),
                "new": hex(f.new),
                "gate": hex(f.gate[0]),
                "replaces_patch": bool(f.under),
                "writes": [{"address": hex(w.address), "bytes": w.data.hex()} for w in f.arm],
            }
            for f in plan.record.replaced
        ],
        "update_points": [f.name for f in plan.functions if f.point],
        "regions": [{"address": hex(r.address), "size": r.size} for r in plan.regions],
        "quiet": [
            {"function": r.function, "start": hex(r.start), "end": hex(r.end)} for r in plan.active
        ],
        "calls": [{"kind": call.kind, "address": hex(call.address)} for call in plan.calls],
        "transfer": [{**step._asdict(), "address": hex(step.address)} for step in plan.steps],
        "bindings": [
            {"symbol": b.symbol, "address": hex(b.address), "module": b.module}
            for b in plan.bindings
        ],
        "verdicts": [verdict._asdict() for verdict in plan.verdicts],
        "warnings": list(plan.warnings),
    }


def plan_text(plan: Plan, verbose: bool) -> str:
    """Return a plan for people; `verbose` with every address."""
    lines = [f"{plan.name} ({plan.id[:SHORT_ID]}) can be applied to process {plan.pid}"]
    lines += table([(f"  {v.check}", v.verdict, v.detail) for v in plan.verdicts])
    lines.append("functions, which no thread may be in at the commit:")
    rows = [(f"  {f.name}", f"{f.old:#x} -> {f.new:#x}", f.module) for f in plan.record.replaced]
    lines += table(rows)
    points = [f.name for f in plan.functions if f.point]
    if points:
        lines.append(f"unless it is at the entry of {' or '.join(points)}")
    lines.append("memory to be mapped:")
    lines += [f"  {r.address:#x}, {r.size >> 10} KiB" for r in plan.regions]
    if plan.calls:
        lines.append("code to be run in the target at the commit:")
        lines += [f"  {call.kind} at {call.address:#x}" for call in plan.calls]
    if plan.steps:
        lines.append("to carry the state over, with all threads stopped:")
        lines += [f"  {step}" for step in plan.steps]
    if verbose:
        lines += _details(plan)
    return "\n".join(lines)


def _details(plan: Plan) -> list[str]:
    """Return the lines that only -v shows."""
    lines = ["entries to be written:"]
    lines += table(
        [(f"  {f.name}", f"{w.address:#x}", w.data.hex(" ")) for f in plan.functions for w in f.arm]
    )
    lines.append("code that has to be quiet:")
    lines += table([(f"  {r.function}", f"{r.start:#x}-{r.end:#x}") for r in plan.active])
    if plan.bindings:
        lines.append("symbols of the patch and what they mean:")
        rows = [
            (f"  {b.symbol}", hex(b.address) if b.address else "-", b.module or "")
            for b in plan.bindings
        ]
        lines += table(rows)
    return lines
