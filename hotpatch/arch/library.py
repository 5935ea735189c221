# SPDX-License-Identifier: GPL-2.0-or-later
"""Loading the C library inside an installed Python package, without importing the package."""

from __future__ import annotations

import ctypes
import os
from importlib.machinery import PathFinder


def load(package: str, path: str, mode: int = os.RTLD_NOW) -> ctypes.CDLL | None:
    """Load the library at `path` in a package's directory; None where that can't be done."""
    found = PathFinder.find_spec(package)
    for directory in (found and found.submodule_search_locations) or ():
        try:
            return ctypes.CDLL(os.path.join(directory, path), mode)
        except OSError:
            continue
    return None
