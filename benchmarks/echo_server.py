"""What everything is compared with: a bare `grpc.aio` server whose only method returns its request's bytes.

`python -m benchmarks.echo_server bare|aio|fast PORT`: bare is `grpc.aio` alone; the others are our fronts
around the same echo, so that a front can be told from what it serves.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable

import grpc
import grpc.aio

from entitlement_sidecar.sidecar.rpc.aio_front import AioFront
from entitlement_sidecar.sidecar.rpc.front import Front, Method

PATH = "/entitlement.v1.EntitlementService/CheckEntitlement"


async def _echo(payload: bytes, _context: object) -> bytes:
    return payload


async def _bare(port: int) -> None:
    server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
    service, _, name = PATH[1:].partition("/")
    handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
        name: grpc.unary_unary_rpc_method_handler(_echo)
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


async def _front(kind: str, port: int) -> None:
    from entitlement_sidecar.sidecar.rpc.fast_front import FastFront  # noqa: PLC0415 - an extra

    kinds: dict[str, Callable[..., Front]] = {"aio": AioFront, "fast": FastFront}
    front = kinds[kind](f"127.0.0.1:{port}", [Method(PATH, lambda payload: payload)])
    await front.start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_bare(int(sys.argv[2])) if sys.argv[1] == "bare" else _front(sys.argv[1], int(sys.argv[2])))
