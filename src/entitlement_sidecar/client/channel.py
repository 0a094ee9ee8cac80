"""How a client reaches the sidecar: what is retried, and how soon a lost one is looked for."""

from __future__ import annotations

import json
from typing import Any

# Every message is safe to send again (a CONSUME has a request id, usage has an identity), so gRPC may retry
# what the sidecar turned away while it starts or drains. The deadline bounds all attempts together.
_RETRY = {
    "maxAttempts": 4,
    "initialBackoff": "0.02s",
    "maxBackoff": "0.1s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE"],
}
CHANNEL_OPTIONS: list[tuple[str, Any]] = [
    (
        "grpc.service_config",
        json.dumps(
            {
                "methodConfig": [
                    {
                        "name": [
                            {"service": "entitlement.v1.EntitlementService", "method": "CheckEntitlement"},
                            {"service": "entitlement.v1.UsageService", "method": "ReportUsage"},
                            {"service": "entitlement.v1.UsageService", "method": "RecordTask"},
                            {"service": "entitlement.v1.UsageService", "method": "CorrectUsage"},
                        ],
                        "retryPolicy": _RETRY,
                    }
                ]
            }
        ),
    ),
    # A sidecar that restarts is back within two seconds; gRPC's own backoff would not look for minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # The sidecar is on this machine: a proxy of the environment is never on the way.
    ("grpc.enable_http_proxy", 0),
]
