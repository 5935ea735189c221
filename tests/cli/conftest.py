# SPDX-License-Identifier: GPL-2.0-or-later
"""The command heeds no signal that it was started to ignore; the tests want it to heed them all.

A test run in the background, or under nohup, hands down SIGINT or SIGHUP ignored.
"""

from __future__ import annotations

import signal

signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
