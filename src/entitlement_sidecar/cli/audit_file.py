"""Exports of the audit log: written page by page, continued where they end, and verified offline."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from itertools import chain, islice
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, BinaryIO, Self

import msgspec

from entitlement_sidecar.domain.audit import ChainWalk, Entry, Finding
from entitlement_sidecar.domain.errors import ConfigurationError

JSON_LINES, CSV = "json-lines", "csv"

MAX_FINDINGS = 100
"""Findings that are told; the others are counted."""

_LONGEST = 2**31 - 1
"""Characters that a field of CSV may have."""


class _Exported(msgspec.Struct, forbid_unknown_fields=True):
    """An entry as REST gives it and as a file has it."""

    sequence: int
    at: Annotated[datetime, msgspec.Meta(tz=True)]
    actor: str
    role: str
    action: str
    resource: str
    tenant_id: str
    reason: str
    request_id: str
    before: str
    after: str
    previous: str
    hash: str

    def entry(self) -> Entry:
        """As the chain has it; ValueError where a hash is no hexadecimal."""
        said = msgspec.structs.asdict(self)
        return Entry(**said | {name: bytes.fromhex(said[name]) for name in ("previous", "hash")})


FIELDS = _Exported.__struct_fields__


class FileReport(msgspec.Struct, frozen=True):
    """What an export holds, in words, and what is wrong with it."""

    told: str
    count: int
    findings: tuple[Finding, ...]


class ExportFile:
    """A file that entries are appended to. `last` is the last entry that it holds.

    Raises:
        ConfigurationError: There is such a file and it is not to be continued, it holds something else, or
            it cannot be written.
    """

    def __init__(self, path: Path, form: str, *, resume: bool) -> None:
        self.last = 0
        self._path = path
        self._form = form
        size = path.stat().st_size if path.exists() else 0
        if size and not resume:
            raise ConfigurationError(f"{path}: is there already: go on with --resume, or name another file")
        kept = self._end_of_last() if size else 0
        try:
            # What changed, and why, is for its owner only.
            self._file = os.fdopen(
                os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+", encoding="utf-8", newline=""
            )
        except OSError as error:
            raise ConfigurationError(f"{path}: cannot be written: {error.strerror}") from error
        self._file.truncate(kept)
        self._file.seek(0, io.SEEK_END)
        self._csv = csv.writer(self._file, lineterminator="\n", quoting=csv.QUOTE_ALL)
        if form == CSV and not kept:
            self._csv.writerow(FIELDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def write(self, page: Iterable[dict[str, Any]]) -> None:
        """Appends a page; what was written stays, whatever comes."""
        for entry in page:
            said = {name: entry[name] for name in FIELDS}
            if self._form == CSV:
                self._csv.writerow(said.values())
            else:
                self._file.write(msgspec.json.encode(said).decode() + "\n")
            self.last = entry["sequence"]
        self._file.flush()

    def _end_of_last(self) -> int:
        """Where the last whole entry ends: what follows was cut short."""
        with _opened(self._path) as file:
            reader = _Reader(self._path, file)
            if reader.form != self._form:
                raise ConfigurationError(f"{self._path}: is {reader.form}: resume it with that --format")
            for entry in reader.entries(whole=False):
                self.last = max(self.last, entry.sequence)
            return reader.end


def verify_export(path: Path, *, gaps: bool = False) -> FileReport:
    """Checks every hash and link of an export. `gaps`: entries may have been left out.

    Raises:
        ConfigurationError: It cannot be read, or is no export; names the line.
    """
    with _opened(path) as file:
        return _verified(_Reader(path, file).entries(), gaps=gaps)


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        with path.open("rb") as file:
            yield file
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror}") from error


def _verified(entries: Iterator[Entry], *, gaps: bool) -> FileReport:
    first = next(entries, None)
    if first is None:
        return FileReport("no entries", 0, ())
    walk = ChainWalk(gaps=gaps)
    if first.sequence > 1 and not gaps:
        # What came before an export's first entry is not in it.
        walk = ChainWalk(first.sequence - 1, None)
    number, count = 0, 0
    kept: list[Finding] = []
    for entry in chain([first], entries):
        found = list(walk.follow(entry))
        number += 1
        count += len(found)
        kept.extend(islice(found, MAX_FINDINGS - len(kept)))
    end = (walk.hash or b"").hex()
    told = f"{number} entries verified, {first.sequence} to {walk.sequence}, which has hash {end}"
    return FileReport(told, count, tuple(kept))


class _Reader:
    """Reads either form; `end` is where the last entry that was read ends, in bytes."""

    def __init__(self, path: Path, file: Iterable[bytes]) -> None:
        self._path = path
        self._lines = iter(file)
        self._number = 0
        self._at = 0
        self._rest = b""
        self.end = 0
        first = next(self._lines, b"")
        self.form = JSON_LINES if first.startswith((b"{", b"\n")) or not first else CSV
        self._lines = chain([first] if first else [], self._lines)

    def entries(self, *, whole: bool = True) -> Iterator[Entry]:
        """Every entry; where the last one was cut short, an error, or its silent end.

        Raises:
            ConfigurationError: A line is no entry.
        """
        records = self._json() if self.form == JSON_LINES else self._csv()
        try:
            for record in records:
                self.end = self._at
                yield record.entry()
        except csv.Error as error:
            if "unexpected end" not in str(error):
                raise self._wrong(str(error)) from error
            self._rest = b"open"
        except (ValueError, msgspec.MsgspecError) as error:
            raise self._wrong(str(error)) from error
        if self._rest and whole:
            raise self._wrong("the last entry was cut short: go on with `export --resume`")

    def _texts(self) -> Iterator[str]:
        """Lines that have their end."""
        for line in self._lines:
            self._number += 1
            if not line.endswith(b"\n"):
                self._rest = line
                return
            self._at += len(line)
            yield line.decode("utf-8")

    def _json(self) -> Iterator[_Exported]:
        for line in self._texts():
            yield msgspec.json.decode(line, type=_Exported)

    def _csv(self) -> Iterator[_Exported]:
        csv.field_size_limit(_LONGEST)
        rows = csv.reader(self._texts(), strict=True)
        header = next(rows, None)
        if header is None:
            return
        if tuple(header) != FIELDS:
            raise self._wrong(f"expected an export of the audit log, with the columns {','.join(FIELDS)}")
        self.end = self._at
        for row in rows:
            yield msgspec.convert(dict(zip(FIELDS, row, strict=True)), _Exported, strict=False)

    def _wrong(self, why: str) -> ConfigurationError:
        return ConfigurationError(f"{self._path}: line {self._number}: {why}")
