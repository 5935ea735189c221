# SPDX-License-Identifier: GPL-2.0-or-later
"""The CVE table: every security patch of Debian's redis and memcached, as a live patch.

    python -m tests.cves [redis|memcached] [CVE...]

For each: the server is built with Debian's own flags without this patch and those after it,
stripped, with its debug file beside it; the live patch is made of Debian's patch by
`hotpatch build`; it is applied under load, the flaw is looked for, it is reverted. A row says how
many functions changed, how many are in the live patch, the longest pause, and what came of it.
Nothing is written by hand, and no option is given beyond those. Exit code 1 where something is not
as it should be.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from tests.cves.probes import NOT_SHOWN, PROBES
from tests.cves.servers import PACKAGES, Built, Case, Server, cases, vulnerable
from tests.support.programs import ROOT

# What can't be patched, and the words of the refusal.
REFUSED = {
    "CVE-2025-46818": "struct redisServer",
    "CVE-2023-46853": "mcp_request_t",
}


class Row(NamedTuple):
    """A line of the table."""

    name: str
    changed: int
    functions: int
    verdict: str
    pause: str
    behaviour: str
    good: bool


def hotpatch(
    *arguments: object, environment: dict[str, str] | None = None
) -> tuple[int, dict[str, Any]]:
    """Run a command; returns its exit code and JSON object."""
    command = [sys.executable, "-m", "hotpatch", str(arguments[0]), "--json"]
    done = subprocess.run(
        [*command, *map(str, arguments[1:])],
        cwd=ROOT, env={**os.environ, **(environment or {})}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    fields = json.loads(done.stdout or "{}")
    return done.returncode, fields if isinstance(fields, dict) else {}


def row(case: Case) -> Row:
    """Make a live patch of a security patch, and see what it does."""
    with vulnerable(case) as built:
        patch = built.program.with_name("fix.so")
        code, made = hotpatch(
            *("build", "--source", built.source, "--diff", case.patch, "--target", built.program),
            *("--build-command", case.package.build, "-o", patch),
            *("--work", built.program.with_name("work")),
            environment=built.environment,
        )
        said = made.get("reason") or "; ".join(made.get("warnings", []))
        if code or not made.get("path"):
            expected = next((REFUSED[cve] for cve in case.cves if cve in REFUSED), None)
            good = expected is not None and expected in said
            return Row(
                case.name, len(made.get("changed", [])), 0, f"no patch: {said}", "", "", good
            )
        functions = [one for one in made["functions"] if one["kind"] == "function"]
        applied = applied_row(case, built, patch)
        return applied._replace(changed=len(made["changed"]), functions=len(functions))


def applied_row(case: Case, built: Built, patch: Path) -> Row:
    """Apply a live patch under load, look for the flaw, and revert it."""
    behaviour, good = before(case, built)
    server = Server(case.package, built.program)
    load = server.load()
    try:
        code, applied = hotpatch("apply", "--timeout", "30", server.pid, patch)
        if code:
            return Row(case.name, 0, 0, f"not applied: {applied.get('reason')}", "", "", False)
        after = {cve: fixed(cve, server) for cve in case.cves if cve in PROBES}
        mended = all(after.values())
        code, reverted = hotpatch("revert", "--timeout", "30", server.pid)
        output = load.communicate()[0]
        lost = load.returncode != 0
        left = hotpatch("list", server.pid)[1].get("patches")
    finally:
        load.kill()
        load.wait()
        server.end()
    if after:
        behaviour += ", mended" if mended else f", NOT mended ({after})"
    verdict = "applied, reverted" if not code else f"not reverted: {reverted.get('reason')}"
    if lost:
        verdict += f", REQUESTS LOST: {output[-200:]}"
    if left:
        verdict += f", left: {left[0].get('state')}"
    good = good and mended and not code and not lost
    return Row(case.name, 0, 0, verdict, f"{applied['pause_us'] / 1e3:.2f} ms", behaviour, good)


def before(case: Case, built: Built) -> tuple[str, bool]:
    """Look for the flaw in a server of its own; return what is seen, and whether it is the flaw."""
    seen = []
    for cve in case.cves:
        if cve not in PROBES:
            seen.append(f"{NOT_SHOWN.get(cve, 'not shown')}")
            continue
        server = Server(case.package, built.program)
        try:
            vulnerable_now = not fixed(cve, server)
            crashed = not server.alive()
        finally:
            server.end()
        seen.append("crash" if crashed else "flaw seen" if vulnerable_now else "NO FLAW SEEN")
    return ", ".join(dict.fromkeys(seen)), "NO FLAW SEEN" not in seen


def fixed(cve: str, server: Server) -> bool:
    """Tell whether a server behaves as one without a flaw."""
    try:
        return PROBES[cve](server.socket)
    except OSError:
        return False


def main() -> int:
    """Print the table."""
    wanted = sys.argv[1:]
    packages = [p for name, p in PACKAGES.items() if name in wanted] or list(PACKAGES.values())
    only = {word for word in wanted if word.startswith("CVE-")}
    rows = []
    print(f"{'CVE':48} changed in patch     pause  what came of it", flush=True)
    for package in packages:
        for case in cases(package):
            if only and not only & set(case.cves):
                continue
            made = row(case)
            rows.append(made)
            mark = "" if made.good else "  <- NOT AS IT SHOULD BE"
            print(
                f"{made.name:48} {made.changed:7} {made.functions:8} {made.pause:>9}  "
                f"{made.verdict}; {made.behaviour}{mark}",
                flush=True,
            )
    done = sum(1 for made in rows if made.pause)
    print(f"{done} of {len(rows)} applied and reverted, none with a line written by hand")
    return 0 if all(made.good for made in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
