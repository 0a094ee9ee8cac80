"""The statements that code sends to PostgreSQL, and how PostgreSQL goes about each."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
from sqlalchemy import Connection, Engine, event, text

EXPLAINED = ("SELECT", "INSERT", "UPDATE", "DELETE", "WITH")


class Statement(msgspec.Struct, frozen=True):
    """A statement as the driver got it; of many sets of parameters the first."""

    sql: str
    parameters: Any

    @property
    def can_be_explained(self) -> bool:
        """Whether there is a plan for it."""
        return self.sql.lstrip().upper().startswith(EXPLAINED)

    def plan(self, connection: Connection, *, executed: bool = False) -> Node:
        """How PostgreSQL would go about it, or has gone about it, parameters and all."""
        how = "ANALYZE, BUFFERS, FORMAT JSON" if executed else "FORMAT JSON"
        found = connection.exec_driver_sql(f"EXPLAIN ({how}) {self.sql}", self.parameters).scalar_one()
        plan = json.loads(found) if isinstance(found, str) else found
        return Node(plan[0]["Plan"])


class Node(msgspec.Struct, frozen=True):
    """One step of a plan."""

    content: dict[str, Any]

    def __iter__(self) -> Iterator[Node]:
        """This step and every one below it."""
        yield self
        for below in self.content.get("Plans", ()):
            yield from Node(below)

    @property
    def kind(self) -> str:
        """What it does: `Seq Scan`, `Sort`, and so on."""
        return str(self.content["Node Type"])

    @property
    def relation(self) -> str:
        """The table that is read; empty where none is."""
        return str(self.content.get("Relation Name", ""))

    @property
    def expected_rows(self) -> int:
        """Rows that PostgreSQL expects of it."""
        return int(self.content["Plan Rows"])

    @property
    def rows_read(self) -> int:
        """Rows that an executed scan has read, those that it left out included."""
        if not self.relation:
            return 0
        removed = sum(self.content.get(f"Rows Removed by {why}", 0) for why in ("Filter", "Index Recheck"))
        return int((self.content["Actual Rows"] + removed) * self.content["Actual Loops"])

    @property
    def pages_read(self) -> int:
        """Pages that an executed step and all below it have looked at."""
        return int(self.content["Shared Hit Blocks"] + self.content["Shared Read Blocks"])


@contextmanager
def recorded(engine: Engine) -> Iterator[list[Statement]]:
    """What is sent inside, in order."""
    found: list[Statement] = []

    def note(*sent: Any) -> None:
        _, _, sql, parameters, _, many = sent
        found.append(Statement(sql, parameters[0] if many else parameters))

    event.listen(engine, "before_cursor_execute", note)
    try:
        yield found
    finally:
        event.remove(engine, "before_cursor_execute", note)


def big_tables(connection: Connection, rows: int) -> set[str]:
    """Tables with at least so many rows, as they were last counted."""
    query = text("SELECT relname FROM pg_class WHERE relkind IN ('r', 'p') AND reltuples >= :rows")
    return set(connection.scalars(query, {"rows": rows}))
