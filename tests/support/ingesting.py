"""Usage as sidecars send it to a plan store."""

from __future__ import annotations

from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from entitlement_sidecar.wire.v1 import usage_pb2

STAMP = Timestamp(seconds=1_769_860_800)


def sent_event(id_: str, **more: Any) -> usage_pb2.UsageEvent:
    """A judged event of metric `calls`."""
    fields = {
        "tenant_id": "acme",
        "metric": "calls",
        "value": 1,
        "unit": "call",
        "occurred_at": STAMP,
        "recorded_at": STAMP,
        "correlation_id": "work",
        "classification": 1,
    }
    return usage_pb2.UsageEvent(id=id_, **{**fields, **more})
