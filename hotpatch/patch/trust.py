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
    return problem_of(path, os.stat(path))  # noqa: PTH116


def problem_of(path: str, status: os.stat_result) -> str | None:
    """Return the same for a file that was opened at `path` and has this `status`."""
    if status.st_mode & S_IWOTH:
        return f"{path} can be written by every user (mode {status.st_mode & 0o7777:04o})"
    if status.st_uid not in (0, os.geteuid()):
        return f"{path} belongs to {_user(status.st_uid)}, neither root nor you"
    directory = os.path.dirname(os.path.realpath(path))
    mode = os.stat(directory).st_mode  # noqa: PTH116
    if mode & S_IWOTH and not mode & S_ISVTX:
        return f"{path} can be replaced by every user: {directory} has mode {mode & 0o7777:04o}"
    return None


def _user(uid: int) -> str:
    import pwd  # noqa: PLC0415

    try:
        return f"user {pwd.getpwuid(uid).pw_name}"
    except KeyError:
        return f"user {uid}"
