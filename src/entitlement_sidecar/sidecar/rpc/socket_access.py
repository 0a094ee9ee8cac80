"""Who may open a Unix socket, and where one may lie.

The kernel lets a process connect that may write to the socket: mode, owner and group say who. Whoever could
put another socket in its place would be called instead, so the folder and what lies there are looked at too.
"""

from __future__ import annotations

import grp
import os
import re
import socket
import stat
from pathlib import Path

import msgspec

OTHERS = stat.S_IRWXG | stat.S_IRWXO
"""The bits of a mode that let in anybody but the owner."""

OWNER_ONLY = stat.S_IRUSR | stat.S_IWUSR

MODE_FORM = "an octal mode that lets the owner read and write, such as 0600 or 0660"


class SocketAccess(msgspec.Struct, frozen=True):
    """Mode of a socket, and its group; empty: the group of this process."""

    mode: int = OWNER_ONLY
    group: str = ""


def parse_mode(text: str) -> int:
    """A mode as `chmod` takes it.

    Raises:
        ValueError: Says what would be right.
    """
    if not re.fullmatch(r"0?[67][0-7]{2}", text):
        raise ValueError(f"{text!r}: expected {MODE_FORM}")
    return int(text, 8)


def find_group(name: str) -> int:
    """The number of a group.

    Raises:
        ValueError: This machine has no such group.
    """
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError as error:
        raise ValueError(f"there is no group {name!r} on this machine") from error


def grant(path: Path, access: SocketAccess) -> None:
    """Gives a socket that was bound for its owner alone its group and mode, and looks whether it has them.

    Raises:
        OSError: This user may not give it the group, or something else lies there by now.
        ValueError: There is no such group.
    """
    if access.group:
        _give(path, access.group)
    path.chmod(access.mode)
    found = path.lstat()
    if not stat.S_ISSOCK(found.st_mode) or found.st_uid != os.geteuid():
        raise OSError("somebody else put something there meanwhile")
    if stat.S_IMODE(found.st_mode) != access.mode:
        raise OSError(f"its mode is {stat.S_IMODE(found.st_mode):04o} and not {access.mode:04o}")


def _give(path: Path, group: str) -> None:
    number = find_group(group)
    try:
        os.chown(path, -1, number, follow_symlinks=False)
    except PermissionError as error:
        raise OSError(f"this user may not give the socket to the group {group!r}: join it first") from error


def check_place(path: Path) -> None:
    """Looks at a socket's folder, and at what lies where the socket is to be.

    A folder that others may write to is right where its sticky bit keeps them from each other's files.

    Raises:
        ValueError: Somebody else could put a socket of theirs in its place, or something is there already.
    """
    try:
        folder = path.parent.stat()
    except OSError as error:
        raise ValueError(f"the folder {path.parent}: {error.strerror}; create it with mode 0700") from error
    if folder.st_uid not in {0, os.geteuid()}:
        raise ValueError(
            f"the folder {path.parent} belongs to user {folder.st_uid}, who could replace the socket; "
            "use a folder of this user, with mode 0700"
        )
    if folder.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not folder.st_mode & stat.S_ISVTX:
        who = "every user" if folder.st_mode & stat.S_IWOTH else "its group"
        raise ValueError(
            f"{who} may write to {path.parent}, and could replace the socket; use a folder with mode 0700, "
            "or 0750 where its group calls"
        )
    _check_left_behind(path)


def _check_left_behind(path: Path) -> None:
    """A socket of this user that nobody listens on was left by a killed process: it may be replaced."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    except OSError as error:
        raise ValueError(f"{error.strerror}; choose another path") from error
    if not stat.S_ISSOCK(found.st_mode):
        raise ValueError("a file that is no socket is there; choose another path")
    if _answers(path):
        raise ValueError("something else listens there already; stop it, or choose another path")
    if found.st_uid != os.geteuid():
        raise ValueError(
            f"a socket of user {found.st_uid} lies there, which is not replaced; remove it, or choose "
            "another path"
        )


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(os.fspath(path))
        except OSError:
            return False
        return True
