"""How a synchronous gRPC call ends: with its answer, or with the status of what was raised."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import grpc

from entitlement_sidecar.domain.errors import SourceUnavailableError
from entitlement_sidecar.planstore.db.away import AWAY
from entitlement_sidecar.wire.status import abort


@contextmanager
def answering(context: grpc.ServicerContext) -> Iterator[None]:
    """Ends the call with the status of whatever the block raises; a database that is away is UNAVAILABLE."""
    try:
        yield
    except AWAY:
        abort(context, SourceUnavailableError("the plan store's database is away", retry_after=1.0))
    except Exception as error:  # noqa: BLE001 - every error has a status
        abort(context, error)
