"""What the outbox's file of a sidecar says, beside the sidecar that writes it: newer than its metrics."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any


def queued(state: Path) -> int:
    """Events that wait to be settled."""
    return int(_rows(state, "SELECT count(*) AS found FROM records")[0]["found"])


def dead(state: Path) -> int:
    """Dead letters."""
    return int(_rows(state, "SELECT count(*) AS found FROM dead_letters")[0]["found"])


def epochs(state: Path) -> dict[int, dict[str, Any]]:
    """The totals of every start that has accepted something: accepted, settled, dead, lost."""
    return {row["epoch"]: row for row in _rows(state, "SELECT * FROM epochs WHERE accepted > 0")}


def instance(state: Path) -> str:
    """What the sidecar is called where usage and leases come from."""
    return str(_rows(state, "SELECT id FROM instance")[0]["id"])


def _rows(state: Path, query: str) -> list[dict[str, Any]]:
    with closing(sqlite3.connect(f"file:{state}/outbox.db?mode=ro", uri=True, timeout=30)) as file:
        file.row_factory = sqlite3.Row
        return [dict(row) for row in file.execute(query)]
