"""Pseudonyms: who is told apart, and what no file shows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from entitlement_sidecar.domain.catalogue import CatalogueDocument, Metric
from entitlement_sidecar.domain.decision import CheckMode, CheckRequest
from entitlement_sidecar.domain.errors import ConfigurationError, InvalidInputError
from entitlement_sidecar.sidecar.usage.pseudonyms import PseudonymousReporter, Pseudonyms
from entitlement_sidecar.testing import FakeClock
from entitlement_sidecar.testing.memory_outbox import MemoryOutbox
from entitlement_sidecar.wire.v1 import usage_pb2
from support.usage import next_batch

KEY = b"k" * 32
NAMES = Pseudonyms(KEY)


def test_equal_names_of_a_tenant_are_equal_and_others_are_not() -> None:
    """Under another key and of another tenant they are others; nobody stays nobody."""
    mine = NAMES.of("acme", "ann@example.org")

    assert re.fullmatch(r"p-[0-9a-f]{32}", mine)
    assert Pseudonyms(KEY).of("acme", "ann@example.org") == mine
    others = {
        NAMES.of("acme", "bob@example.org"),
        NAMES.of("other", "ann@example.org"),
        Pseudonyms(b"j" * 32).of("acme", "ann@example.org"),
        mine,
    }
    assert len(others) == 4
    assert NAMES.of("acme", "") == ""


def test_the_key_is_nowhere_to_be_seen(tmp_path: Path) -> None:
    """Not in what is printed of it, nor in what is said of a wrong file."""
    file = tmp_path / "key"
    file.write_bytes(b"short-secret")
    file.chmod(0o600)
    with pytest.raises(ConfigurationError, match="expected 32 to 4096 bytes, got 12") as refused:
        Pseudonyms.of_file(file, "--subject-key-file")
    assert "short-secret" not in str(refused.value)
    assert "kkkk" not in repr(NAMES)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_a_key_that_others_may_use_is_refused(tmp_path: Path, mode: int) -> None:
    """It says what to do; readable by its owner alone it is taken, every byte of it."""
    file = tmp_path / "key"
    file.write_bytes(KEY)
    file.chmod(mode)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        Pseudonyms.of_file(file, "--subject-key-file")
    file.chmod(0o600)
    assert Pseudonyms.of_file(file, "--subject-key-file").of("a", "b") == NAMES.of("a", "b")


def test_a_key_that_is_missing_is_named(tmp_path: Path) -> None:
    """With the setting and the file."""
    with pytest.raises(ConfigurationError, match=r"--subject-key-file .*/none: No such file"):
        Pseudonyms.of_file(tmp_path / "none", "--subject-key-file")


async def test_no_event_names_anybody() -> None:
    """Neither what is reported nor what is consumed, whatever identity it gets; the rest is as it was."""
    catalogue = CatalogueDocument(version=1, features={}, metrics={"calls": Metric("calls", "api", "call")})
    outbox = MemoryOutbox()
    reporter = PseudonymousReporter(NAMES, outbox, lambda: catalogue, FakeClock(), "i-1")
    event = usage_pb2.UsageEvent(
        tenant_id="acme", metric="calls", value=1, correlation_id="w", subject="ann", actor_id="bob"
    )
    await reporter.report([event])
    batch = await next_batch(outbox, 10, 1 << 20)
    assert batch is not None
    kept = batch.events[0].event
    assert (kept.subject, kept.actor_id) == (NAMES.of("acme", "ann"), NAMES.of("acme", "bob"))
    assert (kept.tenant_id, kept.correlation_id) == ("acme", "w")
    request = CheckRequest(tenant_id="acme", feature="calls", mode=CheckMode.CONSUME, subject="ann")
    consumed = reporter.consume(request, catalogue.metrics["calls"], "c-1", "")
    assert (consumed.subject, request.subject) == (NAMES.of("acme", "ann"), "ann")


async def test_a_report_that_is_too_long_is_not_hashed() -> None:
    """It is refused before it costs anything: checks share its thread."""
    hashed = []

    class Counted(Pseudonyms):
        def of(self, tenant_id: str, name: str) -> str:
            hashed.append(name)
            return super().of(tenant_id, name)

    reporter = PseudonymousReporter(
        Counted(KEY), MemoryOutbox(), lambda: CatalogueDocument(1, {}, {}), FakeClock(), "i-1"
    )
    with pytest.raises(InvalidInputError, match="expected 1 to 1000 events"):
        await reporter.report([usage_pb2.UsageEvent(subject="ann")] * 1001)
    assert not hashed
