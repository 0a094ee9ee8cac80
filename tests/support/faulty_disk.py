"""A disk that fails where a test says: below SQLite, so that the product above runs as it is.

    sqlite3 ── SQLite ── this: counts writes, syncs and truncations, fails one ── SQLite's own VFS ── files

Within `with FaultyDisk(folder) as disk`, databases of that folder are opened through a VFS that hands
everything on to the platform's own, and only those three calls by way of Python. What was written and not
synced is remembered, and `power_cut` takes it back, in whole or in parts; nothing is really synced, so this
is quick. Names of files are taken to be there for good once they are made.

It calls the SQLite library that Python's `sqlite3` uses, found by the symbols of its module: that needs a
Python whose SQLite is a shared library, as Debian's and that of the official images.
"""

from __future__ import annotations

import _sqlite3
import ctypes
import random
import sqlite3
from collections.abc import Callable, Iterator
from ctypes import CFUNCTYPE, POINTER, byref, c_char_p, c_int, c_int64, c_void_p
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, NamedTuple, Self

_SECTOR = 512
_IS_KEPT = 0x100 | 0x800 | 0x80000  # SQLITE_OPEN_MAIN_DB, _MAIN_JOURNAL, _WAL

_Open = CFUNCTYPE(c_int, c_void_p, c_void_p, c_void_p, c_int, POINTER(c_int))
_Delete = CFUNCTYPE(c_int, c_void_p, c_char_p, c_int)
_Transfer = CFUNCTYPE(c_int, c_void_p, c_void_p, c_int, c_int64)
_Truncate = CFUNCTYPE(c_int, c_void_p, c_int64)
_Sync = CFUNCTYPE(c_int, c_void_p, c_int)
_Size = CFUNCTYPE(c_int, c_void_p, POINTER(c_int64))


class _Vfs(ctypes.Structure):
    """`sqlite3_vfs`; what is not named here is handed on."""

    _fields_: ClassVar = [
        ("version", c_int),
        ("file_size", c_int),
        ("longest_path", c_int),
        ("following", c_void_p),
        ("name", c_char_p),
        ("data", c_void_p),
        ("open", c_void_p),
        ("delete", c_void_p),
        ("others", c_void_p * 14),
    ]


class _Methods(ctypes.Structure):
    """`sqlite3_io_methods`: functions in the order of SQLite's header, after the version."""

    _fields_: ClassVar = [("version", c_int), ("functions", c_void_p * 18)]


_READ, _WRITE, _TRUNCATE, _SYNC, _FILE_SIZE = range(1, 6)
"""Where a function stands in `_Methods`."""


class Fault(Enum):
    """How the disk fails."""

    FULL = "no space: that write and all that follow, until it is healed"
    ERROR = "an input/output error, once"
    SHORT = "half of one write is written"
    CRASH = "the machine stops there: nothing is written any more"


class Point(NamedTuple):
    """One call that reached the disk: what, and on which file."""

    call: str
    file: str


class _Change(NamedTuple):
    """A change that was not synced: what it wrote, and what was there before."""

    offset: int
    new: bytes | None
    """None: the file ends here from then on."""
    old: bytes
    old_size: int


class FaultyDisk:
    """The disk below one folder. Calls are counted from 1 in `points`."""

    def __init__(self, folder: Path, fault: Fault | None = None, at: int = 0) -> None:
        self.points: list[Point] = []
        self.failed: Point | None = None
        self._folder = folder.resolve()
        self._fault = fault
        self._at = at
        self._unsynced: dict[Path, list[_Change]] = {}

    def __enter__(self) -> Self:
        _shim().use(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _shim().use(None)
        if error is None and _shim().defects:
            raise AssertionError("the faulty disk itself failed") from _shim().defects.pop()

    @property
    def crashed(self) -> bool:
        """Nothing reaches the disk any more."""
        return self._fault is Fault.CRASH and self.failed is not None

    def heal(self) -> None:
        """From now on everything succeeds."""
        self._fault = None

    def holds(self, path: Path) -> bool:
        """Whether a file is on this disk."""
        return path.is_relative_to(self._folder)

    def failing(self, call: str, path: Path) -> bool:
        """Counts a call; whether it fails."""
        self.points.append(Point(call, path.name))
        if self._fault is None or len(self.points) < self._at:
            return False
        if self._fault in {Fault.ERROR, Fault.SHORT} and self.failed is not None:
            return False
        if self._fault in {Fault.FULL, Fault.SHORT} and call != "write":
            return False
        self.failed = self.failed or self.points[-1]
        return True

    def written_of(self, data: bytes) -> bytes:
        """What of a failing write reaches the disk."""
        return data[: len(data) // 2] if self._fault is Fault.SHORT else b""

    def code(self, call: str) -> int:
        """SQLite's code for a failing call."""
        if self._fault in {Fault.FULL, Fault.SHORT}:
            return sqlite3.SQLITE_FULL
        return {
            "write": sqlite3.SQLITE_IOERR_WRITE,
            "sync": sqlite3.SQLITE_IOERR_FSYNC,
            "truncate": sqlite3.SQLITE_IOERR_TRUNCATE,
        }[call]

    def changed(self, path: Path, change: _Change) -> None:
        """Remembers what would be lost."""
        self._unsynced.setdefault(path, []).append(change)

    def synced(self, path: Path) -> None:
        """What was written to a file is there for good; so it is when the file is deleted."""
        self._unsynced.pop(path, None)

    def power_cut(self, chance: random.Random) -> None:
        """Takes back what was not synced, or some of it; call it when every connection is closed."""
        for path, changes in self._unsynced.items():
            if path.exists():
                _lose(path, changes, chance)
        for shared in self._folder.rglob("*-shm"):
            shared.unlink()  # memory of the machine that stopped
        self._unsynced.clear()


def _lose(path: Path, changes: list[_Change], chance: random.Random) -> None:
    keep = chance.choice([_none, _all, _beginning, _some])
    with path.open("r+b") as file:
        for change in reversed(changes):
            file.seek(change.offset)
            file.write(change.old)
            file.truncate(change.old_size)
        for change in keep(changes, chance):
            if change.new is None:
                file.truncate(change.offset)
            else:
                file.seek(change.offset)
                file.write(change.new)


def _none(_: list[_Change], __: random.Random) -> Iterator[_Change]:
    return iter(())


def _all(changes: list[_Change], _: random.Random) -> Iterator[_Change]:
    """As where only the process was killed."""
    return iter(changes)


def _beginning(changes: list[_Change], chance: random.Random) -> Iterator[_Change]:
    """In order, up to a torn one."""
    count = chance.randrange(len(changes))
    yield from changes[:count]
    yield _torn(changes[count], chance)


def _some(changes: list[_Change], chance: random.Random) -> Iterator[_Change]:
    """A disk may write in any order."""
    for change in changes:
        if chance.random() < 0.5:
            yield _torn(change, chance) if chance.random() < 0.2 else change


def _torn(change: _Change, chance: random.Random) -> _Change:
    """The first sectors of a write alone."""
    if change.new is None:
        return change
    return change._replace(new=change.new[: _SECTOR * chance.randint(0, len(change.new) // _SECTOR)])


class _Shim:
    """The VFS that calls `disk`. It stays registered: connections may outlive what they were opened for."""

    def __init__(self) -> None:
        self.disk: FaultyDisk | None = None
        self.defects: list[Exception] = []
        self._sqlite = ctypes.CDLL(_sqlite3.__file__)
        try:
            self._sqlite.sqlite3_vfs_find.restype = c_void_p
        except AttributeError as error:
            raise RuntimeError("needs a Python whose sqlite3 module uses a shared library") from error
        self._plain = self._sqlite.sqlite3_vfs_find(None)
        real = _Vfs.from_address(self._plain)
        self._open_really, self._delete_really = _Open(real.open), _Delete(real.delete)
        opens, deletes = _guarded(self, self._open), _guarded(self, self._delete)
        self._callbacks: list[Any] = [_Open(opens), _Delete(deletes)]
        self._vfs = _Vfs.from_buffer_copy(real)
        self._vfs.name = b"faulty"
        self._vfs.open, self._vfs.delete = (ctypes.cast(one, c_void_p) for one in self._callbacks)
        self._methods: dict[int, _Methods] = {}
        self._open_files: dict[int, tuple[Path, FaultyDisk]] = {}
        self._check(self._sqlite.sqlite3_vfs_register(byref(self._vfs), 0))

    def use(self, disk: FaultyDisk | None) -> None:
        """What is opened from now on is on this disk, where it says so."""
        self.disk = disk
        vfs = c_void_p(self._plain) if disk is None else byref(self._vfs)
        self._check(self._sqlite.sqlite3_vfs_register(vfs, 1))

    @staticmethod
    def _check(code: int) -> None:
        if code != sqlite3.SQLITE_OK:
            raise RuntimeError(f"SQLite refuses the VFS: {code}")

    def _open(self, _: int, name: int | None, file: int, flags: int, out: Any) -> int:
        disk = self.disk
        path = Path(ctypes.string_at(name).decode()) if name else None
        ours = disk is not None and path is not None and disk.holds(path) and bool(flags & _IS_KEPT)
        if ours and disk is not None and disk.crashed:
            return sqlite3.SQLITE_CANTOPEN
        code: int = self._open_really(self._plain, name, file, flags, out)
        if ours and code == sqlite3.SQLITE_OK and path is not None and disk is not None:
            self._open_files[file] = (path, disk)
            methods = c_void_p.from_address(file)  # the first field of a `sqlite3_file`
            methods.value = ctypes.addressof(self._replaced(methods.value or 0))
        return code

    def _delete(self, _: int, name: bytes, __: int) -> int:
        disk, path = self.disk, Path(name.decode())
        if disk is not None and disk.holds(path):
            if disk.crashed:
                return sqlite3.SQLITE_IOERR_DELETE
            disk.synced(path)
        code: int = self._delete_really(self._plain, name, 0)
        return code

    def _replaced(self, address: int) -> _Methods:
        """A platform's functions with three of them replaced; made once, and never let go."""
        if address not in self._methods:
            real = _Methods.from_address(address)
            calls = _Calls(real, self._open_files)
            made = [
                _Transfer(_guarded(self, calls.write)),
                _Truncate(_guarded(self, calls.truncate)),
                _Sync(_guarded(self, calls.sync)),
            ]
            self._callbacks += made
            copy = _Methods.from_buffer_copy(real)
            for place, callback in zip((_WRITE, _TRUNCATE, _SYNC), made, strict=True):
                copy.functions[place] = ctypes.cast(callback, c_void_p).value
            self._methods[address] = copy
        return self._methods[address]


class _Calls:
    """The calls that may fail, of files that SQLite knows by their address."""

    def __init__(self, real: _Methods, open_files: dict[int, tuple[Path, FaultyDisk]]) -> None:
        self.files = open_files
        self._read, self._write = _Transfer(real.functions[_READ]), _Transfer(real.functions[_WRITE])
        self._truncate, self._size = _Truncate(real.functions[_TRUNCATE]), _Size(real.functions[_FILE_SIZE])

    def write(self, file: int, data: int, amount: int, offset: int) -> int:
        """Writes all of it, or fails with as much of it as the fault lets through."""
        path, disk = self.files[file]
        new = ctypes.string_at(data, amount)
        fails = disk.failing("write", path)
        if fails:
            new = disk.written_of(new)
        if new:
            disk.changed(path, _Change(offset, new, self._held(file, len(new), offset), self._length(file)))
            self._write(file, data, len(new), offset)
        return disk.code("write") if fails else sqlite3.SQLITE_OK

    def truncate(self, file: int, size: int) -> int:
        """Cuts the file, or fails."""
        path, disk = self.files[file]
        if disk.failing("truncate", path):
            return disk.code("truncate")
        length = self._length(file)
        disk.changed(path, _Change(size, None, self._held(file, length - size, size), length))
        code: int = self._truncate(file, size)
        return code

    def sync(self, file: int, _: int) -> int:
        """Makes what was written stay, or fails."""
        path, disk = self.files[file]
        if disk.failing("sync", path):
            return disk.code("sync")
        disk.synced(path)
        return sqlite3.SQLITE_OK

    def _held(self, file: int, amount: int, offset: int) -> bytes:
        """What a change overwrites, as far as the file reaches."""
        amount = min(amount, self._length(file) - offset)
        if amount <= 0:
            return b""
        # Through SQLite: another handle, when closed, would let go of the locks of this process.
        buffer = ctypes.create_string_buffer(amount)
        self._read(file, ctypes.addressof(buffer), amount, offset)
        return buffer.raw

    def _length(self, file: int) -> int:
        size = c_int64()
        self._size(file, byref(size))
        return size.value


def _guarded(shim: _Shim, call: Callable[..., int]) -> Callable[..., int]:
    """An exception cannot leave a callback, and must not be taken for success."""

    def guarded(*arguments: Any) -> int:
        try:
            return call(*arguments)
        except Exception as error:  # noqa: BLE001 - told at the end of the test
            shim.defects.append(error)
            return sqlite3.SQLITE_INTERNAL

    return guarded


_made: list[_Shim] = []


def _shim() -> _Shim:
    if not _made:
        _made.append(_Shim())
    return _made[0]
