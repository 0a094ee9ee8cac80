"""The key that signs: never replaced unasked, and where another is given, all is signed with that one."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from entitlement_sidecar.domain.clock import SystemClock
from entitlement_sidecar.domain.errors import ConfigurationError
from entitlement_sidecar.planstore.bootstrap import build, seed
from entitlement_sidecar.planstore.catalogue import current_document
from entitlement_sidecar.planstore.config import PlanstoreConfig, prepare_state
from entitlement_sidecar.planstore.db import Database
from entitlement_sidecar.planstore.process import serve
from entitlement_sidecar.planstore.snapshots import bulk
from entitlement_sidecar.planstore.snapshots.bulk import Pace
from entitlement_sidecar.planstore.snapshots.feed import Sequencer, newest_catalogue
from entitlement_sidecar.planstore.snapshots.resealing import Resealer, put_into_force, signed_otherwise
from entitlement_sidecar.telemetry.metrics import REGISTRY
from entitlement_sidecar.testing.clock import FakeClock
from entitlement_sidecar.wire.catalogue_file import parse_catalogue
from entitlement_sidecar.wire.envelopes import open_catalogue, open_snapshot
from entitlement_sidecar.wire.signing import KeyRing, SigningKey
from support.transports import CATALOGUE, Store
from support.waiting import until

TENANTS = [f"tenant-{number}" for number in range(5)]


def configure(database: Database, folder: Path) -> PlanstoreConfig:
    """Settings of a plan store on the database, with a state folder that holds nothing."""
    url = database.engine.url.render_as_string(hide_password=False)
    config = PlanstoreConfig(
        database=url, http="127.0.0.1:0", grpc="127.0.0.1:0", state_dir=folder / "state", feed_shards=1
    )
    prepare_state(config)
    return config


async def run_until(config: PlanstoreConfig, done: Callable[[], bool]) -> None:
    """One life of a plan store, that ends when a condition holds."""
    stopping, started = asyncio.Event(), asyncio.Event()
    running = asyncio.create_task(serve(config, stopping, lambda *_: started.set()))
    await asyncio.wait({running, asyncio.create_task(started.wait())}, return_when=asyncio.FIRST_COMPLETED)
    try:
        await asyncio.to_thread(until, done, "the condition")
    finally:
        stopping.set()
        await running


def sign_again(store: Store, key: SigningKey) -> None:
    """What a plan store does in the background, as fast as it is allowed to."""
    clock = FakeClock()
    again = Resealer(store.database, key, store.clock, Pace(store.database, clock, to_redis=False))
    for _ in range(3):
        again.step()
        Sequencer(store.database).drain()
        clock.advance(1.0)


def versions(store: Store, ring: KeyRing) -> list[int]:
    """Versions of the catalogue and of each tenant's snapshot, all verified with a ring."""
    with store.database.reading() as session:
        newest = newest_catalogue(session)
    assert newest is not None
    snapshots = [open_snapshot(ring, store.envelope(tenant), tenant).version for tenant in TENANTS]
    return [open_catalogue(ring, newest[1]).version, *snapshots]


def test_a_lost_key_is_not_replaced_unasked(database: Database, tmp_path: Path, catalogue_text: str) -> None:
    """A database with signed snapshots and an empty state folder: the start is refused, and nothing made."""
    Store(database)
    config = configure(database, tmp_path)

    with pytest.raises(
        ConfigurationError, match=r"--signing-key .*signing\.key: missing.*give that key"
    ) as no:
        build(config)
    with pytest.raises(ConfigurationError):
        seed(config, parse_catalogue(catalogue_text, "example"), "acme", "basic")

    assert not config.key_path.exists()
    assert not config.trusted_keys_path.exists()
    # What it says to do makes a key that is accepted.
    subprocess.run(["sh", "-c", str(no.value).split("`")[1]], check=True)
    assert SigningKey.load(config.key_path).key_id
    assert config.key_path.stat().st_mode & 0o077 == 0


async def test_another_key_signs_everything_again(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Started with a new key, all that the database holds verifies with it; started again, nothing moves."""
    monkeypatch.setattr(bulk, "BATCH", 2)
    store = Store(database)
    for tenant in TENANTS:
        store.change(tenant)
    config = configure(database, tmp_path)
    new = SigningKey.generate()
    new.save(config.key_path)

    def all_signed() -> bool:
        with store.database.reading() as session:
            return not signed_otherwise(session, new.key_id)

    for _ in range(2):
        await run_until(config, all_signed)

        ring = KeyRing({new.key_id: new.public_bytes}, pinned=True)
        assert versions(store, ring) == [2, 2, 2, 2, 2, 2]


def test_signing_again_goes_on_where_it_was_cut_short(database: Database) -> None:
    """What has the new key already is not signed once more."""
    store = Store(database)
    old = store.key
    for tenant in TENANTS:
        store.change(tenant)
    new = SigningKey.generate()
    store.sign_with(new)
    store.change(TENANTS[0])

    for key, version in ((new, 2), (old, 3)):
        put_into_force(database, key, 1, store.clock)
        sign_again(store, key)
        ring = KeyRing({key.key_id: key.public_bytes}, pinned=True)
        assert versions(store, ring) == [version] * 6


def test_what_a_plan_store_with_the_old_key_signed_is_told(database: Database) -> None:
    """It still runs and applies a catalogue: the new one does not say that nothing is left to sign."""
    store = Store(database)
    for tenant in TENANTS:
        store.change(tenant)
    new = SigningKey.generate()
    put_into_force(database, new, 1, store.clock)
    sign_again(store, new)
    assert REGISTRY.get_sample_value("entitlement_resealing_left") == 0
    store.change(TENANTS[0])
    store.apply(CATALOGUE.replace("29.90", "39.90"))

    sign_again(store, new)

    assert REGISTRY.get_sample_value("entitlement_resealing_left") == 1
    with database.reading() as session:
        assert signed_otherwise(session, new.key_id) == 1
    # It has left; the new one starts again.
    put_into_force(database, new, 1, store.clock)
    sign_again(store, new)
    assert REGISTRY.get_sample_value("entitlement_resealing_left") == 0


def test_an_empty_database_needs_nothing_signed(database: Database) -> None:
    """Before the first catalogue there is nothing that another key could have signed."""
    put_into_force(database, SigningKey.generate(), 1, SystemClock())

    with database.reading() as session:
        assert current_document(session).version == 0
