"""Many rows, one statement whose text does not depend on how many.

On PostgreSQL all rows travel as one JSON value: a statement with a place for every value takes longer to
write and to read than to run. SQLite runs in this process and takes the rows one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import lru_cache
from typing import Any
from typing import cast as as_type

import msgspec
from sqlalchemy import (
    JSON,
    ColumnElement,
    LargeBinary,
    Select,
    Table,
    Text,
    any_,
    bindparam,
    cast,
    column,
    func,
    literal,
    select,
    tuple_,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import InstrumentedAttribute, Session

from entitlement_sidecar.planstore.db import Base

_json = msgspec.json.Encoder()
_returned = msgspec.json.Decoder(list[list[Any]]).decode

Rows = Sequence[Mapping[str, object]]
Refine = Callable[[Any], Any]
"""Adds what the insert does on conflict; gets either dialect's insert."""


def as_it_is(statement: Any) -> Any:  # noqa: ANN401 - either dialect's insert
    """No more than the insert."""
    return statement


def passing_by(statement: Any) -> Any:  # noqa: ANN401 - either dialect's insert
    """Leaves rows as they are that are there already."""
    return statement.on_conflict_do_nothing()


def insert_rows(
    session: Session,
    model: type[Base],
    rows: Rows,
    refine: Refine = as_it_is,
    returning: Sequence[ColumnElement[Any]] = (),
) -> list[Any]:
    """Inserts rows, all of one shape, in their order: keys that the database numbers grow in that order.

    What RETURNING gives, in no particular order; columns of texts and numbers.
    """
    table = as_type("Table", model.__table__)
    if session.get_bind().dialect.name == "sqlite":
        statement = refine(sqlite.insert(table))
        result = session.execute(statement.returning(*returning) if returning else statement, rows)
        return list(result.all()) if returning else []
    statement = _from_json(table, tuple(rows[0]), refine, tuple(returning))
    result = session.execute(statement, {"rows": _json.encode(rows).decode()})
    return _returned(result.scalar_one()) if returning else []


def among(
    session: Session, one: ColumnElement[str] | InstrumentedAttribute[str], values: Collection[str]
) -> Any:  # noqa: ANN401 - an SQL condition
    """That a column is one of many values; one parameter on PostgreSQL."""
    if session.get_bind().dialect.name == "sqlite":
        return one.in_(values)
    return one == any_(_array(values))


def named(
    session: Session,
    one: InstrumentedAttribute[str],
    other: InstrumentedAttribute[str],
    pairs: Sequence[tuple[str, str]],
) -> Any:  # noqa: ANN401 - an SQL condition
    """That two columns are one of many pairs.

    Pairs are a relation: with those of a condition SQLite compares every row, and PostgreSQL does where it
    does not know yet how many rows there are.
    """
    return tuple_(one, other).in_(_relation(session, pairs))


def _relation(session: Session, pairs: Sequence[tuple[str, str]]) -> Select[str, str]:
    if session.get_bind().dialect.name == "sqlite":
        pair = func.json_each(_json.encode(pairs).decode()).table_valued("value").c.value
        return select(func.json_extract(pair, "$[0]"), func.json_extract(pair, "$[1]"))
    firsts, seconds = _array([first for first, _ in pairs]), _array([second for _, second in pairs])
    given = func.unnest(firsts, seconds).table_valued("one", "other").render_derived(name="named")
    return select(given.c.one, given.c.other)


def _array(values: Collection[str]) -> ColumnElement[Any]:
    # Written here: the driver takes longer to write an array than PostgreSQL to read it.
    escaped = [value.replace("\\", "\\\\").replace('"', '\\"') for value in values]
    written = '{"' + '","'.join(escaped) + '"}' if escaped else "{}"
    return cast(literal(written, Text()), postgresql.ARRAY(Text()))


@lru_cache(maxsize=64)
def _from_json(
    table: Table, names: tuple[str, ...], refine: Refine, returning: tuple[ColumnElement[Any], ...]
) -> Any:  # noqa: ANN401 - what `refine` makes of an insert
    """The statement, made once for each caller whose `refine` stays the same."""
    # JSON writes bytes in base64, and instants with their offset.
    binary = {name for name in names if isinstance(table.c[name].type, LargeBinary)}
    types = (Text() if name in binary else table.c[name].type for name in names)
    given = (
        func.json_to_recordset(cast(bindparam("rows", type_=Text()), JSON))
        .table_valued(*(column(name, type_) for name, type_ in zip(names, types, strict=True)))
        .render_derived(with_types=True)
    )
    values = (func.decode(given.c[name], "base64") if name in binary else given.c[name] for name in names)
    statement = refine(postgresql.insert(table).from_select(names, select(*values)))
    if not returning:
        return statement
    # As one value too: a row of a result costs as much as what it says.
    done = statement.returning(*returning).cte("done")
    each = func.json_build_array(*(done.c[one.name] for one in returning))
    return select(func.coalesce(cast(func.json_agg(each), Text()), "[]"))
