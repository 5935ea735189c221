# SPDX-License-Identifier: GPL-2.0-or-later
"""Lines of the CVE table; `make cves` prints all of it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.programs import ROOT


@pytest.mark.parametrize(
    ("package", "cve", "came"),
    [
        ("redis", "CVE-2025-67733", "applied, reverted; flaw seen, mended"),
        ("memcached", "CVE-2023-46852", "applied, reverted; the proxy, which is off here"),
    ],
)
def test_a_security_patch_of_debian_as_a_live_patch(package: str, cve: str, came: str) -> None:
    """Its source is fetched and built; the flaw is mended under load, and back in the end."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.cves", package, cve],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert came in done.stdout
    assert "1 of 1 applied and reverted" in done.stdout
