"""The one place that knows which implementation stands behind which port."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import cast

import grpc.aio
import msgspec

from entitlement_sidecar.domain.catalogue import CatalogueDocument, Durability, Feature
from entitlement_sidecar.domain.clock import Clock, SystemClock
from entitlement_sidecar.sidecar.adapters.file_snapshots import FileSnapshots
from entitlement_sidecar.sidecar.adapters.grpc_authority import PlanStoreAuthority
from entitlement_sidecar.sidecar.adapters.grpc_ingest import PlanStoreIngest
from entitlement_sidecar.sidecar.adapters.grpc_leases import RootGrantor
from entitlement_sidecar.sidecar.adapters.grpc_reservations import PlanStoreReservations
from entitlement_sidecar.sidecar.adapters.grpc_snapshots import PlanStoreFeed, PlanStoreSnapshots
from entitlement_sidecar.sidecar.adapters.sqlite_last_known import SqliteLastKnown
from entitlement_sidecar.sidecar.adapters.sqlite_outbox import SqliteOutbox
from entitlement_sidecar.sidecar.admin import Readiness, UsageHealth
from entitlement_sidecar.sidecar.config import FrontKind, SidecarConfig
from entitlement_sidecar.sidecar.decisions.atomic import AtomicBatches
from entitlement_sidecar.sidecar.decisions.basis import Knowledge
from entitlement_sidecar.sidecar.decisions.check import Decisions
from entitlement_sidecar.sidecar.decisions.consumption import Consumptions
from entitlement_sidecar.sidecar.decisions.knowing import Knowing
from entitlement_sidecar.sidecar.decisions.watching import Watching
from entitlement_sidecar.sidecar.leases.asking import Means as LeaseMeans
from entitlement_sidecar.sidecar.leases.authority import QuotaAuthority
from entitlement_sidecar.sidecar.leases.book import LeaseBook
from entitlement_sidecar.sidecar.leases.grantor import Grantor
from entitlement_sidecar.sidecar.leases.local_authority import LocalAuthority, NoAuthority
from entitlement_sidecar.sidecar.leases.modes import ByMode
from entitlement_sidecar.sidecar.leases.views import UsageViews
from entitlement_sidecar.sidecar.rpc.aio_front import AioFront
from entitlement_sidecar.sidecar.rpc.caller_sockets import CallerSockets
from entitlement_sidecar.sidecar.rpc.callers import Callers
from entitlement_sidecar.sidecar.rpc.callers_file import Caller
from entitlement_sidecar.sidecar.rpc.entitlements import EntitlementServicer
from entitlement_sidecar.sidecar.rpc.front import Exposure, Front, Methods
from entitlement_sidecar.sidecar.rpc.memo import AnswerMemo
from entitlement_sidecar.sidecar.rpc.permit import Permit
from entitlement_sidecar.sidecar.rpc.reservations import ReservationServicer
from entitlement_sidecar.sidecar.rpc.socket_access import SocketAccess, parse_mode
from entitlement_sidecar.sidecar.rpc.tls import ServerTls, TlsFiles
from entitlement_sidecar.sidecar.rpc.usage import UsageServicer, UsageTaking
from entitlement_sidecar.sidecar.rpc.watched_files import WatchedFile, WatchedFiles
from entitlement_sidecar.sidecar.snapshots.breaker import Breaking, BreakingKnower, Circuit
from entitlement_sidecar.sidecar.snapshots.follower import Follower
from entitlement_sidecar.sidecar.snapshots.freezing import Freezing, thaw_by_time
from entitlement_sidecar.sidecar.snapshots.freshness import Freshness
from entitlement_sidecar.sidecar.snapshots.keeping import Keeping
from entitlement_sidecar.sidecar.snapshots.key_learning import learn_again
from entitlement_sidecar.sidecar.snapshots.last_known import LastKnown, NothingKept
from entitlement_sidecar.sidecar.snapshots.loader import Loader
from entitlement_sidecar.sidecar.snapshots.ports import Feed, SnapshotSource
from entitlement_sidecar.sidecar.snapshots.store import HeldTenant, SnapshotStore
from entitlement_sidecar.sidecar.usage.corrections import Corrections
from entitlement_sidecar.sidecar.usage.pseudonyms import PseudonymousReporter, Pseudonyms
from entitlement_sidecar.sidecar.usage.report import UsageReporter
from entitlement_sidecar.sidecar.usage.reservations import NoReservations, ReservationRoot, Reservations
from entitlement_sidecar.sidecar.usage.shipper import Shipper
from entitlement_sidecar.sidecar.usage.tasks import TaskRecorder
from entitlement_sidecar.sidecar.usage.unshipped import UnshippedUsage
from entitlement_sidecar.telemetry.probes import HttpServer, probe_app
from entitlement_sidecar.wire.redis_target import RedisTarget
from entitlement_sidecar.wire.signing import KeyRing
from entitlement_sidecar.wire.token_file import read_token
from entitlement_sidecar.wire.v1 import quota_pb2

_CHANNEL_OPTIONS = (
    # A plan store that went away without a word is noticed within seconds.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 3_000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.max_receive_message_length", 16 << 20),
)


Loop = Callable[[], Awaitable[None]]
"""What runs beside the calls, until it is cancelled."""


class Sidecar(msgspec.Struct, frozen=True):
    """Everything that runs in one sidecar process. `loops` run, by name, until the sidecar is drained."""

    front: Front
    http: HttpServer
    follower: Follower
    loader: Loader
    readiness: Readiness
    shipper: Shipper | UnshippedUsage
    outbox: SqliteOutbox
    keeping: Keeping
    leases: LeaseBook | None
    loops: dict[str, Loop]
    close: Callable[[], Awaitable[None]]


class _Means(msgspec.Struct, frozen=True):
    """What everything that stands behind the sidecar is read with."""

    keyring: KeyRing
    last_known: LastKnown
    outbox: SqliteOutbox
    clock: Clock
    store: SnapshotStore

    def durability(self, feature: Feature) -> Durability:
        """How the usage of a feature is kept; of one whose metric is not known, as well as can be."""
        metric = self.store.catalogue.metric_of(feature)
        return metric.durability if metric else Durability.DURABLE


class _Upstream(msgspec.Struct, frozen=True):
    """What stands behind the sidecar."""

    sources: list[SnapshotSource]
    feed: Feed
    authority: QuotaAuthority
    shipper: Shipper | None = None
    planstore: BreakingKnower | None = None
    learn_keys: Callable[[], Awaitable[None]] | None = None
    circuits: tuple[Circuit, ...] = ()
    file: FileSnapshots | None = None
    root: RootGrantor | None = None
    block: Grantor | None = None
    leases: LeaseBook | None = None
    reservations: ReservationRoot = NoReservations()


async def build(config: SidecarConfig, clock: Clock | None = None) -> Sidecar:
    """A sidecar that is ready to be started; `clock` is the machine's unless given.

    Raises:
        ConfigurationError: A setting is wrong; nothing is left open.
    """
    config, clock = config.checked(), clock or SystemClock()
    async with AsyncExitStack() as stack:
        outbox = SqliteOutbox(config.state_dir, max_bytes=config.max_outbox_bytes)
        stack.push_async_callback(outbox.close)
        stats = await outbox.stats()
        keyring = KeyRing.load(config.trusted_keys) if config.trusted_keys else KeyRing()
        last_known = _last_known(config, keyring, stack)
        store = SnapshotStore(config.max_snapshot_bytes, last_known, Freezing(clock))
        upstream = await _upstream(config, _Means(keyring, last_known, outbox, clock, store), stack)
        freshness = Freshness(clock)
        loader = Loader(
            store, upstream.sources, clock, upstream.planstore if config.redis else None, last_known
        )
        if upstream.file is not None:
            await _hold_everything(store, upstream.file)
        taking = _taking(config, (outbox, lambda: store.catalogue, clock, stats.instance))
        knowing = Knowing(Knowledge(store, freshness, clock), loader)
        consumptions = Consumptions(outbox, taking.reporter, upstream.authority)
        decisions = Decisions(knowing, upstream.authority, consumptions)
        stack.push_async_callback(decisions.finish)
        atomic = AtomicBatches(decisions, knowing, upstream.authority, consumptions)
        reservations = _reservations(upstream, taking, outbox, stats.instance)
        serve = _serving(decisions, atomic, Watching(decisions, knowing), taking, reservations)
        front, front_files = _front(config, serve)
        health = UsageHealth(outbox, upstream.shipper.state if upstream.shipper else None)
        readiness = Readiness(store, freshness, clock, upstream.circuits, health)
        # Probes decide nothing and carry no secrets; the kubelet and Prometheus ask from outside.
        http = HttpServer(probe_app(readiness), config.http, allow_remote=True)
        stack.callback(http.close)
        keeping = Keeping(store, freshness, last_known)
        shipper = upstream.shipper or UnshippedUsage(outbox, clock)
        follower = Follower(upstream.feed, store, loader, freshness, upstream.planstore)
        loops: dict[str, Loop] = {
            "follower": follower.run,
            "last known": keeping.run,
            "thaw": partial(thaw_by_time, store.thaw),
            "shipper": shipper.run,
            "files of the listener": front_files.run,
        }
        loops |= _loops_of(upstream, keyring)
        return Sidecar(
            front=front,
            http=http,
            follower=follower,
            loader=loader,
            readiness=readiness,
            shipper=shipper,
            outbox=outbox,
            keeping=keeping,
            leases=upstream.leases,
            loops=loops,
            close=stack.pop_all().aclose,
        )
    raise AssertionError("unreachable")


def _loops_of(upstream: _Upstream, keyring: KeyRing) -> dict[str, Loop]:
    """What runs beside the calls because of what stands behind the sidecar."""
    loops: dict[str, Loop] = {}
    if upstream.leases is not None:
        loops["leases"] = upstream.leases.run
    if upstream.learn_keys is not None and not keyring.pinned:
        loops["keys"] = partial(learn_again, upstream.learn_keys)
    return loops


def _last_known(config: SidecarConfig, keyring: KeyRing, stack: AsyncExitStack) -> LastKnown:
    """What was known last, and the keys that were trusted last until the plan store tells those of now."""
    if config.snapshot_file is not None:
        return NothingKept()
    kept = SqliteLastKnown(config.state_dir, keyring, config.max_snapshot_bytes)
    stack.push_async_callback(kept.close)
    keyring.learn(kept.keys())
    return kept


async def _upstream(config: SidecarConfig, means: _Means, stack: AsyncExitStack) -> _Upstream:
    if config.snapshot_file is not None:
        file = FileSnapshots(config.snapshot_file, means.clock)
        return _Upstream([file], file, LocalAuthority(means.clock), file=file)
    upstream = await _planstore(config, means, stack) if config.planstore else None
    if config.redis_target is None:
        return _with_leases(cast("_Upstream", upstream), means)
    return _with_leases(_with_redis(config.redis_target, means, upstream, stack), means)


def _with_leases(upstream: _Upstream, means: _Means) -> _Upstream:
    """Consumption from leases, in front of the authority that grants them."""
    if upstream.root is None:
        return upstream
    leasing = LeaseMeans(upstream.root, upstream.block, means.outbox.leases, means.clock, means.durability)
    book = LeaseBook(upstream.authority, leasing)
    return msgspec.structs.replace(upstream, authority=book, leases=book)


async def _planstore(config: SidecarConfig, means: _Means, stack: AsyncExitStack) -> _Upstream:
    token = read_token(cast("Path", config.token_file), "--token-file")
    channel = grpc.aio.insecure_channel(config.planstore, options=_CHANNEL_OPTIONS)
    stack.push_async_callback(channel.close)
    stats = await means.outbox.stats()
    holder = quota_pb2.Holder(instance=stats.instance, epoch=stats.epoch)
    authority = ByMode(UsageViews(PlanStoreAuthority(channel, token, holder), means.clock))
    snapshots = PlanStoreSnapshots(channel, means.keyring, token, means.last_known)
    breaking = BreakingKnower(snapshots, "plan_store", means.clock)
    return _Upstream(
        sources=[breaking],
        feed=PlanStoreFeed(channel, means.keyring, token, means.last_known),
        authority=authority,
        shipper=Shipper(means.outbox, PlanStoreIngest(channel, token), means.clock),
        planstore=breaking,
        learn_keys=snapshots.learn_keys,
        circuits=(breaking.circuit,),
        root=RootGrantor(channel, token),
        reservations=PlanStoreReservations(channel, token, stats.instance),
    )


def _with_redis(
    target: RedisTarget, means: _Means, behind: _Upstream | None, stack: AsyncExitStack
) -> _Upstream:
    """Redis in front of the plan store: nearer for snapshots, and the feed comes from it."""
    # Imported late: a sidecar without Redis does not pay its memory.
    from entitlement_sidecar.sidecar.adapters.redis_client import connect  # noqa: PLC0415
    from entitlement_sidecar.sidecar.adapters.redis_feed import RedisFeed  # noqa: PLC0415
    from entitlement_sidecar.sidecar.adapters.redis_grantor import BlockGrantor  # noqa: PLC0415
    from entitlement_sidecar.sidecar.adapters.redis_leases import RedisLeases  # noqa: PLC0415
    from entitlement_sidecar.sidecar.adapters.redis_snapshots import RedisSnapshots  # noqa: PLC0415

    redis = connect(target)
    stack.push_async_callback(redis.aclose)
    breaking = Breaking(RedisSnapshots(redis, means.keyring, means.last_known), "redis", means.clock)
    feed = RedisFeed(target, means.keyring, behind.learn_keys if behind else None)
    stack.push_async_callback(feed.aclose)
    if behind is None:
        return _Upstream([breaking], feed, NoAuthority(), circuits=(breaking.circuit,))
    return msgspec.structs.replace(
        behind,
        sources=[breaking, *behind.sources],
        feed=feed,
        circuits=(breaking.circuit, *behind.circuits),
        block=BlockGrantor(RedisLeases(redis)),
    )


def _taking(
    config: SidecarConfig, means: tuple[SqliteOutbox, Callable[[], CatalogueDocument], Clock, str]
) -> UsageTaking:
    """What takes usage. `means` are what each of its parts is made of, in its order."""
    tasks, corrections, clock = TaskRecorder(*means), Corrections(*means), means[2]
    if config.subject_key_file is None:
        return UsageTaking(UsageReporter(*means), tasks, corrections, clock)
    pseudonyms = Pseudonyms.of_file(config.subject_key_file, "--subject-key-file")
    return UsageTaking(PseudonymousReporter(pseudonyms, *means), tasks, corrections, clock, pseudonyms)


def _reservations(
    upstream: _Upstream, taking: UsageTaking, outbox: SqliteOutbox, instance: str
) -> Reservations:
    corrections = taking.corrections if upstream.shipper else None
    return Reservations(upstream.reservations, outbox, corrections, taking.clock, instance)


async def _hold_everything(store: SnapshotStore, file: FileSnapshots) -> None:
    store.put_catalogue(await file.catalogue())
    for fetched in file.everything():
        store.put(HeldTenant(fetched.snapshot, fetched.source, fetched.true_at, followed=True))


def _serving(
    decisions: Decisions,
    atomic: AtomicBatches,
    watching: Watching,
    taking: UsageTaking,
    reservations: Reservations,
) -> Callable[[Permit | None], Methods]:
    """Makes the methods of one caller, or of everybody."""
    memo = AnswerMemo()

    def serve(permit: Permit | None) -> Methods:
        kept = memo.apart() if permit else memo
        entitlements = EntitlementServicer(decisions, atomic, watching, permit, kept)
        reserving = ReservationServicer(reservations, taking.pseudonyms, permit)
        return [*entitlements.methods(), *UsageServicer(taking, permit).methods(), *reserving.methods()]

    return serve


def _front(config: SidecarConfig, serve: Callable[[Permit | None], Methods]) -> tuple[Front, WatchedFiles]:
    """What serves, and the files that it follows."""
    tls = _tls(config)
    watched = [WatchedFile("tls", tls.files.paths(), tls.load)] if tls else []
    callers = Callers(config.callers, serve, certificates=bool(tls and tls.asks)) if config.callers else None
    access = SocketAccess(parse_mode(config.socket_mode), config.socket_group)
    exposure = Exposure(allow_remote=config.allow_remote, access=access, tls=tls, door=callers)
    methods = serve(None)
    main = _one_front(config.front, config.listen, methods, exposure)
    if callers is None:
        return main, WatchedFiles(watched)

    def own(caller: Caller) -> Front:
        exposure = Exposure(setting="socket", access=caller.access, door=callers.behind(caller))
        return _one_front(config.front, f"unix:{caller.socket}", methods, exposure)

    fronts = CallerSockets(main, callers, own)
    return fronts, WatchedFiles([*watched, WatchedFile("callers", [callers.path], fronts.load)])


def _tls(config: SidecarConfig) -> ServerTls | None:
    if config.tls_cert is None or config.tls_key is None:
        return None
    return ServerTls(TlsFiles(config.tls_cert, config.tls_key, config.tls_client_ca))


def _one_front(kind: FrontKind, address: str, methods: Methods, exposure: Exposure) -> Front:
    if kind is FrontKind.AIO:
        return AioFront(address, methods, exposure=exposure)
    # Imported late: the fast front is an extra.
    from entitlement_sidecar.sidecar.rpc.fast_front import FastFront  # noqa: PLC0415

    return FastFront(address, methods, exposure=exposure)
