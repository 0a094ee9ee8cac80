"""The one place that knows which implementation stands behind what."""

from __future__ import annotations

import threading

import grpc
import msgspec
import redis
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from entitlement_sidecar.domain.address import tcp_address
from entitlement_sidecar.domain.catalogue import Catalogue
from entitlement_sidecar.domain.clock import Clock, SystemClock
from entitlement_sidecar.domain.errors import ConfigurationError
from entitlement_sidecar.planstore.access import Gate, last_used, register_first
from entitlement_sidecar.planstore.api.app import create_app
from entitlement_sidecar.planstore.api.dependencies import ApiDependencies
from entitlement_sidecar.planstore.api.quota_check import QuotaChecks
from entitlement_sidecar.planstore.api.rpc_auth import TokenInterceptor
from entitlement_sidecar.planstore.api.rpc_leases import Quotas
from entitlement_sidecar.planstore.api.rpc_load import CallPool, LoadInterceptor
from entitlement_sidecar.planstore.api.rpc_quotas import QuotaServicer
from entitlement_sidecar.planstore.api.rpc_snapshots import MAX_WATCHERS, SnapshotServicer
from entitlement_sidecar.planstore.audit import anchors
from entitlement_sidecar.planstore.catalogue import (
    apply_catalogue,
    current_catalogue,
    list_plans,
)
from entitlement_sidecar.planstore.catalogue.break_glass import LOOK_EVERY, Expiring
from entitlement_sidecar.planstore.config import (
    PlanstoreConfig,
    anchoring_keys,
    load_or_create_key,
    load_or_create_token,
    prepare_state,
    trusted_keys,
)
from entitlement_sidecar.planstore.db import Database, OrganizationRow, create_engine_for
from entitlement_sidecar.planstore.db.away import AWAY, MISNAMED, told
from entitlement_sidecar.planstore.db.migrate import is_current
from entitlement_sidecar.planstore.ingest.servicer import UsageIngestServicer
from entitlement_sidecar.planstore.leases import strictness
from entitlement_sidecar.planstore.leases.blocks import Blocks
from entitlement_sidecar.planstore.leases.recall import InBlocks
from entitlement_sidecar.planstore.leases.redis_blocks import RedisBlocks
from entitlement_sidecar.planstore.leases.worker import EVERY, Delegation
from entitlement_sidecar.planstore.snapshots import SignedSnapshots, limits_of, redis_client
from entitlement_sidecar.planstore.snapshots.bulk import Pace
from entitlement_sidecar.planstore.snapshots.feed import Beats, FeedSignal
from entitlement_sidecar.planstore.snapshots.publisher import Publisher, RedisPublisher
from entitlement_sidecar.planstore.snapshots.redis_client import Cluster
from entitlement_sidecar.planstore.snapshots.redis_feed import RedisFeedWriter
from entitlement_sidecar.planstore.snapshots.resealing import PAUSE, Resealer, holds_signed, put_into_force
from entitlement_sidecar.planstore.snapshots.worker import Worker
from entitlement_sidecar.planstore.subscriptions import (
    Credits,
    Overrides,
    SubscriptionRequest,
    Subscriptions,
    settler,
)
from entitlement_sidecar.planstore.subscriptions.settler import Settler
from entitlement_sidecar.planstore.usage import attention, closing, expiring, lost_holders, retention, sinks
from entitlement_sidecar.planstore.usage.accounts import Accounts
from entitlement_sidecar.planstore.usage.authority import RootAuthority
from entitlement_sidecar.planstore.usage.ledger import Ledger
from entitlement_sidecar.telemetry.probes import HttpServer
from entitlement_sidecar.wire.signing import SigningKey
from entitlement_sidecar.wire.v1 import (
    quota_pb2,
    quota_pb2_grpc,
    snapshot_pb2,
    snapshot_pb2_grpc,
    usage_pb2,
    usage_pb2_grpc,
)

MAX_MESSAGE = 16 << 20
"""Bytes of a gRPC message at most: a batch of usage."""

_SERVICES = (
    snapshot_pb2.DESCRIPTOR.services_by_name["SnapshotService"],
    quota_pb2.DESCRIPTOR.services_by_name["QuotaService"],
    usage_pb2.DESCRIPTOR.services_by_name["UsageIngestService"],
)


class Planstore(msgspec.Struct, frozen=True):
    """Everything that runs in one plan store process."""

    database: Database
    publisher: Publisher
    workers: tuple[Worker, ...]
    signal: FeedSignal
    http: HttpServer
    grpc: grpc.Server
    grpc_port: int
    health: health.HealthServicer
    leaving: threading.Event

    def leave(self) -> None:
        """Says that it is not ready any more, and goes on answering."""
        self.leaving.set()
        self.health.enter_graceful_shutdown()


def build(config: PlanstoreConfig) -> Planstore:
    """A plan store that is ready to be started.

    Raises:
        ConfigurationError: A setting is wrong, or the database is away or not migrated.
    """
    clock, sink = SystemClock(), sinks.sink_of(config.usage_sink)
    prepare_state(config)
    token = load_or_create_token(config.token_path)
    database, key = _open(config)
    put_into_force(database, key, config.feed_shards, clock)
    gate, published_to, signal = _gate(database, token, clock), _redis(config), FeedSignal()
    publisher = _publisher(config, database, key, signal, published_to)
    delegation = _delegation(database, published_to, clock)
    blocks = InBlocks() if delegation is None else InBlocks(delegation.recall, delegation.free)
    quotas = Quotas(database, RootAuthority(database, clock), Accounts(database.now), clock, blocks)
    api = _api(_Base(config, key, gate, published_to), quotas, publisher)
    server = _server(
        gate,
        SnapshotServicer(database, trusted_keys(config), Beats(database, key, clock), signal),
        QuotaServicer(quotas),
        UsageIngestServicer(database, api.ledger, clock),
    )
    health_servicer = _add_standard_services(server)
    grpc_port = _listen(server, config)
    return Planstore(
        database=database,
        publisher=publisher,
        workers=(
            *_workers(database, key, gate, Settler(database, api.subscriptions, clock), clock),
            *([_feeding(database, sink, clock)] if sink else []),
            *([Worker("blocks", delegation.step, EVERY)] if delegation else []),
        ),
        signal=signal,
        http=HttpServer(create_app(api), config.http, allow_remote=config.allow_remote),
        grpc=server,
        grpc_port=grpc_port,
        health=health_servicer,
        leaving=api.leaving,
    )


class _Base(msgspec.Struct, frozen=True):
    """What everything stands on, beside the database."""

    config: PlanstoreConfig
    key: SigningKey
    gate: Gate
    published_to: redis.Redis | Cluster | None


def _api(base: _Base, quotas: Quotas, publisher: Publisher) -> ApiDependencies:
    """What REST needs, and the rest of the process shares with it."""
    database, clock = quotas.database, quotas.clock
    ledger, snapshots = Ledger(limits_of), SignedSnapshots(base.key, clock)
    return ApiDependencies(
        database=database,
        subscriptions=Subscriptions(snapshots, clock),
        overrides=Overrides(snapshots, clock),
        credits=Credits(snapshots, clock),
        authority=quotas.authority,
        accounts=quotas.accounts,
        checks=QuotaChecks(database, quotas.authority, ledger, clock, quotas.blocks),
        ledger=ledger,
        key=base.key,
        clock=clock,
        gate=base.gate,
        feed_shards=base.config.feed_shards,
        changed=publisher.notify,
        trusted=trusted_keys(base.config),
        anchoring=anchoring_keys(base.config),
        published_to=base.published_to,
    )


def seed(config: PlanstoreConfig, catalogue: Catalogue, tenant_id: str, plan: str) -> None:
    """Puts an example catalogue and a subscribed tenant into a database that has none of its own.

    A catalogue that is in force stays, whatever it says, and so does a tenant that is known, whatever became
    of its subscription. Where the catalogue in force does not sell the plan, the tenant is left out.
    """
    clock = SystemClock()
    database, key = _open(config)
    try:
        with database.writing() as session:
            if current_catalogue(session) is None:
                apply_catalogue(session, catalogue, key, clock.now(), config.feed_shards)
            known = session.get(OrganizationRow, tenant_id) is not None
            if not known and plan in {sold.code for sold in list_plans(session)}:
                subscriptions = Subscriptions(SignedSnapshots(key, clock), clock)
                subscriptions.upsert(session, tenant_id, SubscriptionRequest(plan=plan))
    finally:
        database.close()


def _gate(database: Database, token: str, clock: Clock) -> Gate:
    """Knows callers; the token of the token file is one of a billing administrator."""
    with database.writing() as session:
        register_first(session, token, clock.now())
    return Gate(database, clock)


def _open(config: PlanstoreConfig) -> tuple[Database, SigningKey]:
    """The database, and the key that signs what it holds."""
    database = open_database(config)
    try:
        with database.reading() as session:
            signed = holds_signed(session)
        return database, load_or_create_key(config, signed=signed)
    except BaseException:
        database.close()
        raise


def open_database(config: PlanstoreConfig) -> Database:
    """The database of these settings, at the current schema.

    Raises:
        ConfigurationError: It is away, cannot be used, or is not migrated.
    """
    database = Database(create_engine_for(config.database_url))
    try:
        current = is_current(database.engine)
    except AWAY as error:
        database.close()
        why = told(error) if hasattr(error, "orig") else "no connection in time"
        raise ConfigurationError(f"--database: cannot be reached: {why}") from error
    except MISNAMED as error:
        database.close()
        raise ConfigurationError(f"--database: cannot be used: {told(error)}") from error
    if not current:
        database.close()
        raise ConfigurationError("--database: has another schema; run `entitlements planstore migrate` first")
    return database


def _redis(config: PlanstoreConfig) -> redis.Redis | Cluster | None:
    target = config.redis_target
    return None if target is None else redis_client.connect(target)


def _server(
    gate: Gate, snapshots: SnapshotServicer, quotas: QuotaServicer, ingest: UsageIngestServicer
) -> grpc.Server:
    """What sidecars call, behind the gate; how much of it at once, is decided before it."""
    calls = CallPool()
    server = grpc.server(
        calls,
        interceptors=[LoadInterceptor(calls, MAX_WATCHERS), TokenInterceptor(gate)],
        options=[("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", MAX_MESSAGE)],
    )
    snapshot_pb2_grpc.add_SnapshotServiceServicer_to_server(snapshots, server)
    quota_pb2_grpc.add_QuotaServiceServicer_to_server(quotas, server)
    usage_pb2_grpc.add_UsageIngestServiceServicer_to_server(ingest, server)
    return server


def _workers(
    database: Database, key: SigningKey, gate: Gate, settling: Settler, clock: Clock
) -> tuple[Worker, ...]:
    """What runs again and again beside the calls."""
    return (
        Worker("break-glass", Expiring(database, key, clock).step, LOOK_EVERY),
        Worker("audit anchors", anchors.Anchoring(database, key).step, anchors.PAUSE),
        Worker("last-used", gate.last_used.write, last_used.EVERY),
        Worker("usage attention", attention.Attention(database, clock).step, attention.EVERY),
        Worker("settler", settling.settle_due, settler.EVERY),
        Worker("usage windows", closing.Closer(database, clock).close_due, closing.EVERY),
        Worker("reservations", expiring.ExpiredReservations(database, database.now).step, expiring.EVERY),
        Worker("lost holders", _closing(database).step, lost_holders.EVERY),
        Worker("strictness", strictness.Strictness(database, clock).step, strictness.EVERY),
        Worker("usage retention", retention.Retaining(database, clock).step, retention.EVERY),
    )


def _closing(database: Database) -> lost_holders.LostHolders:
    """What closes the accounts of sidecars that are not heard of any more."""
    return lost_holders.LostHolders(database, Accounts(database.now))


def _delegation(database: Database, client: redis.Redis | Cluster | None, clock: Clock) -> Delegation | None:
    """What keeps blocks of quota in Redis, where one is used."""
    if client is None:
        return None
    blocks = RedisBlocks(client)
    return Delegation(Blocks(database, blocks), blocks, clock)


def _feeding(database: Database, sink: sinks.EventSink, clock: Clock) -> Worker:
    """What hands accepted usage on."""
    return Worker("usage sink", sinks.SinkFeeder(database, sink, clock).step, sinks.EVERY)


def _publisher(
    config: PlanstoreConfig,
    database: Database,
    key: SigningKey,
    signal: FeedSignal,
    client: redis.Redis | Cluster | None,
) -> Publisher:
    """What publishes changes, and signs again what another key signed, at the pace of the former."""
    clock = SystemClock()
    to_redis = None
    if client is not None:
        to_redis = RedisPublisher(database, RedisFeedWriter(client), key, config.feed_shards, clock)
    resealer = Resealer(database, key, clock, Pace(database, clock, to_redis=client is not None))
    return Publisher(database, signal, clock, to_redis, [Worker("resealing", resealer.step, PAUSE)])


class _Health(health.HealthServicer):
    """Health of each service by its name."""

    def List(self, _request: object, context: grpc.ServicerContext) -> None:  # noqa: N802 - the RPC
        """Refused in words: the library has none for it, and would log a defect for every such call."""
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "ask for one service by its name: Check or Watch")


def _add_standard_services(server: grpc.Server) -> health.HealthServicer:
    names = [service.full_name for service in _SERVICES]
    servicer = _Health()
    for name in ("", *names):
        servicer.set(name, health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    reflection.enable_server_reflection([*names, health.SERVICE_NAME, reflection.SERVICE_NAME], server)
    return servicer


def _listen(server: grpc.Server, config: PlanstoreConfig) -> int:
    host, port = tcp_address(config.grpc, "--grpc", allow_remote=config.allow_remote)
    try:
        return server.add_insecure_port(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
    except RuntimeError as error:
        raise ConfigurationError(
            f"--grpc {config.grpc}: cannot listen there; something else may listen there already. "
            "Choose another address, or port 0 for a free one"
        ) from error
