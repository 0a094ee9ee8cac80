"""What every feed promises, whichever way it comes."""

from __future__ import annotations

from typing import Any

import pytest

from entitlement_sidecar.domain.errors import SourceUnavailableError
from entitlement_sidecar.sidecar.snapshots.ports import Beat, Began, CatalogueChanged, Changed
from support.transports import CATALOGUE, Reader


def changes(reader: Reader) -> list[tuple[str, int]]:
    """Tenants and versions heard, in order."""
    return [(e.tenant_id, e.version) for e in reader.heard if isinstance(e, Changed)]


async def test_a_change_is_told_with_its_version(transport: Any) -> None:
    """A feed begins, then tells of a tenant's new version, which the source then has."""
    transport.publish()
    reader = Reader(transport.feed())
    began = await reader.began()

    version = transport.store.change()
    transport.publish()
    event = await reader.until(lambda e: isinstance(e, Changed))

    assert (event.tenant_id, event.version) == ("acme", version)
    assert event.position.epoch == began.position.epoch
    assert event.position.sequence == began.position.sequence + 1
    fetched = await transport.source().snapshot("acme", version)
    assert fetched is not None
    assert fetched.snapshot.version == version


async def test_changes_come_in_the_order_of_their_sequences(transport: Any) -> None:
    """Sequences are contiguous, and a tenant's versions only grow."""
    transport.publish()
    reader = Reader(transport.feed())
    began = await reader.began()

    for tenant in ("one", "two", "one", "three", "two"):
        transport.store.change(tenant)
        transport.publish()
    await reader.until(lambda e: getattr(e, "tenant_id", "") == "two" and e.version == 2)

    sequences = [e.position.sequence for e in reader.heard if isinstance(e, Changed)]
    first = began.position.sequence + 1
    assert sequences == list(range(first, first + len(sequences)))
    versions = [version for tenant, version in changes(reader) if tenant == "two"]
    assert versions == sorted(versions)


async def test_a_new_catalogue_is_told(transport: Any) -> None:
    """The catalogue document travels as changes do."""
    transport.publish()
    reader = Reader(transport.feed())
    await reader.began()

    transport.store.apply(CATALOGUE.replace("amount: 5", "amount: 6").replace("More calls", "Even more"))
    transport.publish()
    event = await reader.until(lambda e: isinstance(e, CatalogueChanged))

    assert event.version == 2


async def test_a_beat_comes_after_everything_before_it(transport: Any) -> None:
    """What was committed before a beat's instant was told before the beat."""
    transport.publish()
    reader = Reader(transport.feed())
    await reader.began()
    committed = {}

    for _ in range(8):
        version = transport.store.change()
        committed[version] = transport.store.now()
        transport.publish()
    await reader.until(lambda e: isinstance(e, Beat) and e.true_at > committed[8])

    newest = 0
    for event in reader.heard:
        if isinstance(event, Changed):
            newest = max(newest, event.version)
        elif isinstance(event, Beat):
            assert all(version <= newest for version, at in committed.items() if at < event.true_at)


async def test_a_reader_that_comes_back_goes_on_from_its_cursor(transport: Any) -> None:
    """A lost connection loses no change, and begins nothing anew."""
    transport.publish()
    reader = Reader(transport.feed())
    await reader.began()
    transport.store.change()
    transport.publish()
    await reader.until(lambda e: isinstance(e, Changed))

    transport.cut()
    with pytest.raises(SourceUnavailableError):
        await reader.until(lambda _: False)
    for tenant in ("one", "two", "three"):
        transport.store.change(tenant)
        transport.publish()
    await reader.again()
    await reader.until(lambda e: getattr(e, "tenant_id", "") == "three")

    assert changes(reader) == [("acme", 1), ("one", 1), ("two", 1), ("three", 1)]
    assert sum(isinstance(e, Began) for e in reader.heard) == 1


async def test_publishing_again_changes_nothing_but_the_sequence(transport: Any) -> None:
    """A crash before the mark repeats an entry; its version and the snapshot stay."""
    transport.publish()
    reader = Reader(transport.feed())
    await reader.began()
    transport.store.change()
    transport.publish()

    transport.store.unmark()
    transport.publish()
    transport.store.change("last")
    transport.publish()
    await reader.until(lambda e: getattr(e, "tenant_id", "") == "last")

    assert set(changes(reader)) == {("acme", 1), ("last", 1)}
    assert sum(isinstance(e, Began) for e in reader.heard) == 1
    fetched = await transport.source().snapshot("acme")
    assert fetched is not None
    assert fetched.snapshot.version == 1
