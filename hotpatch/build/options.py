# SPDX-License-Identifier: GPL-2.0-or-later
"""What the user of a build decides: `Options`."""

from __future__ import annotations

from typing import NamedTuple


class Options(NamedTuple):
    """What the user decides; all of it is said in the patch."""

    keep: frozenset[str] = frozenset()
    """Variables whose new initial value is left out: the running one stays."""
    skip: frozenset[str] = frozenset()
    """Functions that are left as they are."""
    types: frozenset[str] = frozenset()
    """Types whose change matters to no object in the target."""
    name: str = ""
    description: str = ""
    facts: tuple[tuple[str, str], ...] = ()
