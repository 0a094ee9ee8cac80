"""How a gRPC call failed, read as a client reads it: by public packages alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status


class Failure(NamedTuple):
    """A status with its details. `fields` are the field violations: field and what would be right."""

    code: grpc.StatusCode
    message: str
    reason: str
    domain: str
    fields: dict[str, str]


def failure(call: Callable[[], Any]) -> Failure:
    """Makes a call that has to fail."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    info, request = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    status = rpc_status.from_call(caught.value)
    for detail in status.details if status else ():
        detail.Unpack(info)
        detail.Unpack(request)
    fields = {one.field: one.description for one in request.field_violations}
    return Failure(caught.value.code(), caught.value.details() or "", info.reason, info.domain, fields)
