# SPDX-License-Identifier: GPL-2.0-or-later
"""`python -m hotpatch`: the same as the command `hotpatch`."""

from __future__ import annotations

import sys

from hotpatch.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
