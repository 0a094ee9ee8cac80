"""Where the outbox's file lies, so that a copy of it is told from its original.

A copy has another number in its file system, or lies in another one. The number of a file that was deleted is
given again, though; so the file is marked beside its content as well, which tools that copy or restore mostly
leave out. What still looks like the original: a disk that was cloned or set back as a whole, and content that
was written over the file itself.
"""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path

_MARK = "user.entitlements.home"


def home_of(path: Path) -> str:
    """Where a file lies, and its mark."""
    return f"{os.statvfs(path).f_fsid:x}:{path.stat().st_ino}:{_mark(path)}"


def settle_in(path: Path) -> str:
    """Marks a file that has come to a new place. Where it lies now."""
    with suppress(OSError, AttributeError):  # not every file system, or system, has marks
        os.setxattr(path, _MARK, secrets.token_hex(8).encode())
    return home_of(path)


def _mark(path: Path) -> str:
    try:
        return os.getxattr(path, _MARK).decode()
    except (OSError, AttributeError):
        return ""
