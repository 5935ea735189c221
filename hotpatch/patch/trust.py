# SPDX-License-Identifier: GPL-2.0-or-later
"""Who could have put code into a patch file.

What a patch contains runs with the rights of the target. A file that somebody else can change,
or that somebody else made, would lend them these rights; the dynamic loader and sudo draw the
line at the same place. It is a refusal that the user may overrule.
"""

from __future__ import annotations

import os
from stat import S_ISVTX, S_IWOTH


def trust_problem(path: str) -> str | None:
    """Return why the patch at `path` is not to be trusted, None where nothing speaks against it.

    Raises `OSError` where the file can't be seen.
    """
    return problem_of(os.stat(path)) or directory_problem(path)  # noqa: PTH116


def problem_of(status: os.stat_result) -> str | None:
    """Return why a file of this `status` is not to be trusted, from its owner and mode."""
    if status.st_mode & S_IWOTH:
        return f"every user can write it (mode {status.st_mode & 0o7777:04o})"
    if status.st_uid not in (0, os.geteuid()):
        return f"it belongs to {_user(status.st_uid)}, neither root nor you"
    return None


def directory_problem(path: str) -> str | None:
    """Return whether another user can put a file of their own in its place."""
    directory = os.path.dirname(os.path.realpath(path))
    mode = os.stat(directory).st_mode  # noqa: PTH116
    if mode & S_IWOTH and not mode & S_ISVTX:
        return f"every user can replace it: {directory} has mode {mode & 0o7777:04o}"
    return None


def _user(uid: int) -> str:
    import pwd  # noqa: PLC0415

    try:
        return f"user {pwd.getpwuid(uid).pw_name}"
    except KeyError:
        return f"user {uid}"
