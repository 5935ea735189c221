# SPDX-License-Identifier: GPL-2.0-or-later
"""The sample servers and load generators come from `tests/targets`."""

from tests.targets.conftest import built, root, start

__all__ = ["built", "root", "start"]
