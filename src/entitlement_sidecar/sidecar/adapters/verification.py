"""Counting what failed verification, by cause and wherever it came from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from entitlement_sidecar.telemetry import metrics
from entitlement_sidecar.wire.signing import BadSignatureError


@contextmanager
def counted_refusals(source: str) -> Iterator[None]:
    """Counts a BadSignatureError of the block, by cause, and as an error of the source; passes it on."""
    try:
        yield
    except BadSignatureError as error:
        metrics.snapshots_refused.labels(error.cause).inc()
        metrics.source_errors.labels(source).inc()
        raise
