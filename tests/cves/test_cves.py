# SPDX-License-Identifier: GPL-2.0-or-later
"""One line of the CVE table; `make cves` prints all of it."""

from __future__ import annotations

import subprocess
import sys

from tests.support.programs import ROOT


def test_a_security_patch_of_debian_as_a_live_patch() -> None:
    """Its source is fetched and built; the flaw is seen, mended under load, and back in the end."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.cves", "redis", "CVE-2025-67733"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "flaw seen, mended" in done.stdout
    assert "1 of 1 applied and reverted" in done.stdout
