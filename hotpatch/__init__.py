# SPDX-License-Identifier: GPL-2.0-or-later
"""Patching running native processes, crash-atomically: the library.

    import hotpatch

    result = hotpatch.apply(pid, "fix.so", timeout=10)
    hotpatch.revert(pid, result.patch.id)

Everything is imported at its first use: a command that needs little starts fast.
"""

from __future__ import annotations

from importlib import import_module

TYPE_CHECKING = False  # importing `typing` for it would cost more than all else here
if TYPE_CHECKING:
    from typing import Any

    from hotpatch.errors import (
        Blocker as Blocker,
    )
    from hotpatch.errors import (
        Busy as Busy,
    )
    from hotpatch.errors import (
        Denied as Denied,
    )
    from hotpatch.errors import (
        Gone as Gone,
    )
    from hotpatch.errors import (
        HotpatchError as HotpatchError,
    )
    from hotpatch.errors import (
        Refused as Refused,
    )
    from hotpatch.errors import (
        RolledBack as RolledBack,
    )
    from hotpatch.update.result import Progress as Progress
    from hotpatch.update.result import Result as Result
    from hotpatch.update.target import (
        Target as Target,
    )
    from hotpatch.update.target import (
        apply as apply,
    )
    from hotpatch.update.target import (
        check as check,
    )
    from hotpatch.update.target import (
        patches as patches,
    )
    from hotpatch.update.target import (
        revert as revert,
    )
    from hotpatch.update.target import (
        stacks as stacks,
    )

__version__ = "0.1.0"

_HOMES = {
    **dict.fromkeys(
        ("Blocker", "Busy", "Denied", "Gone", "HotpatchError", "Refused", "RolledBack"),
        "hotpatch.errors",
    ),
    **dict.fromkeys(("Progress", "Result"), "hotpatch.update.result"),
    **dict.fromkeys(
        ("Target", "apply", "check", "patches", "revert", "stacks"), "hotpatch.update.target"
    ),
}
__all__ = ["__version__", *sorted(_HOMES)]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
