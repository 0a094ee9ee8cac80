"""What was known last: one suite for the file and its twin, then what only a disk can do."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from entitlement_sidecar.domain.decision import Source
from entitlement_sidecar.sidecar.adapters.sqlite_last_known import FILE_NAME, SqliteLastKnown
from entitlement_sidecar.sidecar.snapshots.last_known import LastKnown
from entitlement_sidecar.telemetry import metrics
from entitlement_sidecar.testing.builders import boolean, document, plan_grant, snapshot
from entitlement_sidecar.testing.memory_last_known import MemoryLastKnown
from entitlement_sidecar.wire.envelopes import seal_catalogue, seal_snapshot
from entitlement_sidecar.wire.signing import KeyRing, SigningKey
from support.transports import refused
from support.waiting import until

NOW = datetime(2026, 5, 20, 12, tzinfo=UTC)
KEY, OTHER = SigningKey.generate(), SigningKey.generate()
MIB = 1 << 20


def ring(*keys: SigningKey) -> KeyRing:
    """A pinned ring of these keys."""
    return KeyRing({key.key_id: key.public_bytes for key in keys}, pinned=True)


def sealed(version: int, tenant: str = "acme", key: SigningKey = KEY) -> bytes:
    """A tenant's snapshot."""
    return seal_snapshot(key, snapshot(tenant, plan_grant("sso"), version=version))


Open = Callable[..., SqliteLastKnown]


@pytest.fixture
async def on_disk(tmp_path: Path) -> AsyncIterator[Open]:
    """Opens the file of one folder, again and again."""
    opened: list[SqliteLastKnown] = []

    def start(trusted: KeyRing | None = None, max_bytes: int = 64 * MIB) -> SqliteLastKnown:
        opened.append(SqliteLastKnown(tmp_path, ring(KEY) if trusted is None else trusted, max_bytes))
        return opened[-1]

    yield start
    for one in opened:
        await one.close()


@pytest.fixture(params=["memory", "file"])
def kept(request: pytest.FixtureRequest, on_disk: Open) -> MemoryLastKnown | SqliteLastKnown:
    """Each implementation."""
    return MemoryLastKnown(ring(KEY)) if request.param == "memory" else on_disk()


async def version_of(kept: LastKnown, tenant: str = "acme") -> int | None:
    """The version that is kept."""
    found = await kept.snapshot(tenant)
    return None if found is None else found.snapshot.version


async def test_the_newest_version_is_kept(kept: LastKnown) -> None:
    """Whatever comes later: an old read may end after a new one."""
    kept.keep(sealed(2), "acme", 2, NOW)
    kept.keep(sealed(1), "acme", 1, NOW)
    found = await kept.snapshot("acme")
    assert found is not None
    assert (found.snapshot.version, found.source, found.true_at) == (2, Source.DISK, NOW)
    assert await kept.snapshot("umbrella") is None


async def test_it_is_as_old_as_it_was_confirmed_last(kept: LastKnown) -> None:
    """Another version's confirmation is not its own, and an earlier one does not make it older."""
    kept.keep(sealed(2), "acme", 2, NOW)
    kept.confirm(NOW + timedelta(hours=1), [("acme", 2), ("umbrella", 1)])
    kept.confirm(NOW + timedelta(hours=2), [("acme", 1)])
    kept.confirm(NOW + timedelta(minutes=1), [("acme", 2)])
    found = await kept.snapshot("acme")
    assert found is not None
    assert found.true_at == NOW + timedelta(hours=1)


async def test_a_tenant_that_is_gone_is_forgotten(kept: LastKnown) -> None:
    """And may come back."""
    kept.keep(sealed(2), "acme", 2, NOW)
    kept.forget("acme")
    assert await version_of(kept) is None
    kept.keep(sealed(3), "acme", 3, NOW)
    assert await version_of(kept) == 3


async def test_the_catalogue_is_kept(kept: LastKnown) -> None:
    """The newest of it too."""
    assert await kept.catalogue() is None
    for version in (5, 4):
        kept.keep_catalogue(seal_catalogue(KEY, document(boolean("sso"), version=version), NOW), version)
    found = await kept.catalogue()
    assert found is not None
    assert found.version == 5


async def test_what_nobody_trusted_has_signed_is_not_told(kept: LastKnown) -> None:
    """Whoever may write to the disk cannot forge a feature."""
    kept.keep(sealed(2, key=OTHER), "acme", 2, NOW)
    kept.keep(sealed(2, "umbrella"), "initech", 2, NOW)
    kept.keep_catalogue(seal_catalogue(OTHER, document(), NOW), 1)
    assert await version_of(kept) is None
    assert await version_of(kept, "initech") is None
    assert await kept.catalogue() is None


async def test_everything_is_there_after_a_restart(on_disk: Open) -> None:
    """Snapshots with their age, the catalogue, and the keys that were trusted last."""
    before = on_disk()
    before.keep(sealed(2), "acme", 2, NOW)
    before.confirm(NOW + timedelta(hours=1), [("acme", 2)])
    before.keep_catalogue(seal_catalogue(KEY, document(version=5), NOW), 5)
    before.keep_keys({OTHER.key_id: OTHER.public_bytes})
    before.keep_keys({KEY.key_id: KEY.public_bytes})
    await before.close()

    after = on_disk(KeyRing())
    assert await version_of(after) is None
    await after.close()
    assert after.keys() == {KEY.key_id: KEY.public_bytes}

    trusting = on_disk(KeyRing(after.keys()))
    found, catalogue = await trusting.snapshot("acme"), await trusting.catalogue()
    assert found is not None
    assert catalogue is not None
    assert (found.snapshot.version, found.true_at) == (2, NOW + timedelta(hours=1))
    assert catalogue.version == 5


async def test_a_bit_that_the_disk_has_turned_is_noticed(on_disk: Open, tmp_path: Path) -> None:
    """By the checksum: it is damage, and nobody's forgery. The others are read."""
    before = on_disk()
    before.keep(sealed(2), "acme", 2, NOW)
    before.keep(sealed(2, "umbrella"), "umbrella", 2, NOW)
    await before.close()
    with closing(sqlite3.connect(tmp_path / FILE_NAME)) as file:
        damaged = sealed(2)[:-1] + bytes([sealed(2)[-1] ^ 1])
        file.execute("UPDATE snapshots SET envelope = ? WHERE tenant_id = 'acme'", (damaged,))
        file.commit()

    after = on_disk()
    counted = refused("checksum")
    assert await version_of(after) is None
    assert refused("checksum") == counted + 1
    assert await version_of(after, "umbrella") == 2


@pytest.mark.parametrize("content", [b"", b"no database at all" * 500, b"SQLite format 3\0" + bytes(5000)])
async def test_a_file_that_cannot_be_used_is_set_aside(on_disk: Open, tmp_path: Path, content: bytes) -> None:
    """The sidecar starts, and keeps what comes in a new one."""
    (tmp_path / FILE_NAME).write_bytes(content)
    kept = on_disk()
    kept.keep(sealed(2), "acme", 2, NOW)
    await kept.close()
    assert await version_of(on_disk()) == 2
    assert (tmp_path / f"{FILE_NAME}.corrupt-1").exists() == bool(content)


async def test_those_confirmed_longest_ago_make_room(on_disk: Open) -> None:
    """Bounded by bytes; the catalogue stays, without which nothing could be decided."""
    size = len(sealed(1, "tenant-10"))
    kept = on_disk(max_bytes=20 * size)
    kept.keep_catalogue(seal_catalogue(KEY, document(), NOW), 1)
    for number in range(10, 60):
        tenant = f"tenant-{number}"
        kept.keep(sealed(1, tenant), tenant, 1, NOW + timedelta(minutes=number))
    await kept.close()

    after = on_disk()
    held = [number for number in range(10, 60) if await version_of(after, f"tenant-{number}")]
    assert held == list(range(held[0], 60))
    assert 10 < len(held) <= 20
    assert await after.catalogue() is not None


async def test_what_waits_for_the_disk_is_bounded(on_disk: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes beyond is counted, and nothing else happens."""
    monkeypatch.setattr("entitlement_sidecar.sidecar.adapters.sqlite_last_known.MAX_WAITING", 1000)
    kept = on_disk()
    counted = metrics.REGISTRY.get_sample_value("entitlement_last_known_failures_total") or 0.0
    for number in range(100):
        kept.keep(sealed(1, f"tenant-{number}"), f"tenant-{number}", 1, NOW)
        kept.forget(f"gone-{number}")
    assert (metrics.REGISTRY.get_sample_value("entitlement_last_known_failures_total") or 0.0) > counted


async def test_it_is_written_without_being_closed(on_disk: Open, tmp_path: Path) -> None:
    """A killed process has lost half a second of it at most."""
    kept = on_disk()
    kept.keep(sealed(2), "acme", 2, NOW)

    def written() -> bool:
        with closing(sqlite3.connect(tmp_path / FILE_NAME)) as file:
            return file.execute("SELECT count(*) FROM snapshots").fetchone() == (1,)

    until(written, "the snapshot to be on disk")
    assert (tmp_path / FILE_NAME).stat().st_mode & 0o777 == 0o600


async def test_a_reader_that_leaves_takes_nothing_away(on_disk: Open) -> None:
    """Neither from others that wait for the same to be written, nor what is kept afterwards."""
    kept = on_disk()
    kept.keep(sealed(2), "acme", 2, NOW)
    leaves, stays = (asyncio.create_task(version_of(kept)) for _ in range(2))
    await asyncio.sleep(0)
    leaves.cancel()
    async with asyncio.timeout(60):
        assert await stays == 2
        kept.keep(sealed(3), "acme", 3, NOW)
        assert await version_of(kept) == 3


async def test_a_file_that_cannot_be_opened_ends_no_start(tmp_path: Path, on_disk: Open) -> None:
    """Whatever lies in its place: it is only that nothing is known from before."""
    (tmp_path / FILE_NAME).mkdir()
    kept = on_disk()
    assert kept.keys() == {}
    assert await kept.snapshot("acme") is None
