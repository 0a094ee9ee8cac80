"""Confirms what is held, many versions in one call, in the background and at a bounded rate.

What the feed does not cover counts as current again once the plan store says that it is the newest:
everything after the feed has lost its place, and what was read from a cache. It is served as held meanwhile.

    waiting ── a pause ──▶ asked ──┬── newest ─────▶ followed again
       ▲                           ├── outdated ───▶ read (backlog)
       │                           ├── unknown ────▶ disowned
       └──── a growing pause ──────┴── failed

One call at a time, and pauses are random, so that what many sidecars have lost together does not become a
stampede. A plan store that cannot confirm many at once is asked for one at a time, by the backlog.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import OrderedDict
from collections.abc import Mapping, Sequence

import msgspec

from entitlement_sidecar.domain.errors import (
    EntitlementsError,
    RetryableError,
    SourceUnavailableError,
    UnsupportedError,
)
from entitlement_sidecar.sidecar.snapshots.backlog import Backlog
from entitlement_sidecar.sidecar.snapshots.loader import Loader
from entitlement_sidecar.sidecar.snapshots.ports import Confirmed, Confirmer
from entitlement_sidecar.sidecar.snapshots.store import HeldTenant, SnapshotStore
from entitlement_sidecar.telemetry import metrics

AT_ONCE = 500
"""Versions of one call."""

GATHER = 0.005
"""Seconds that the first version waits for others: many callers miss many tenants together."""

SPREAD = 1.0
"""Seconds at most before everything held is asked about: all sidecars of a site lose their place together."""

PAUSE = 0.1
"""Seconds at least between two calls: with `AT_ONCE` it bounds how many versions a second are asked about."""

LONGEST_PAUSE = 10.0
"""Seconds at most before what failed is asked about again."""

UNSUPPORTED_FOR = 60.0
"""Seconds that a plan store which cannot confirm many at once is not asked to again."""

FEW_GONE = 10
"""Tenants that may be gone at once, however few were asked about."""

_log = logging.getLogger(__name__)


async def believable(confirmer: Confirmer, versions: Mapping[str, int]) -> Confirmed:
    """What became of versions, unless it is that most tenants are gone at once.

    A plan store that was given another database knows nobody. To drop what is held on such a word would lock
    everybody out.

    Raises:
        UnsupportedError, SourceUnavailableError: See `Confirmer`; the latter also for what is not believed.
    """
    told = await confirmer.confirm(versions)
    if len(told.unknown) <= max(FEW_GONE, len(versions) // 2):
        return told
    gone = f"the plan store knows {len(told.unknown)} of {len(versions)} tenants no more"
    _log.error("%s: not believed; is its database the right one?", gone)
    raise SourceUnavailableError(gone)


class _Asked(msgspec.Struct, frozen=True):
    """What was held of a tenant, and its floor, when the question was put."""

    held: HeldTenant
    floor: int


class Revalidation:
    """Asks about what was added, until it is settled. While it is not `open` nothing is added or asked."""

    def __init__(
        self, store: SnapshotStore, loader: Loader, backlog: Backlog, confirmer: Confirmer | None
    ) -> None:
        """`backlog` reads what turns out to be outdated."""
        self._store = store
        self._loader = loader
        self._backlog = backlog
        self._confirmer = confirmer
        # Not a plain one, of which the first is the dearer to find the more were taken out.
        self._soon: OrderedDict[str, None] = OrderedDict()
        self._later: dict[str, None] = {}
        self._running: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._open = False
        self._failures = 0
        self._later_from = self._not_before = self._supported_from = float("-inf")

    def __len__(self) -> int:
        return len(self._soon.keys() | self._later.keys()) + (self._running is not None)

    def open(self) -> None:
        """Questions may be put."""
        self._open = True

    def close(self) -> None:
        """Nothing more is asked, and what waits is forgotten. A call under way goes on to its end."""
        self._open = False
        self._soon.clear()
        self._later.clear()
        self._unplan()

    def cancel(self) -> None:
        """The process ends."""
        self.close()
        if self._running is not None:
            self._running.cancel()

    def add(self, tenant_id: str) -> bool:
        """Has a tenant confirmed soon. False: it is not for here to confirm, read it."""
        if not self._confirms(tenant_id):
            return False
        if self._open:
            self._soon[tenant_id] = None
            self._plan(asyncio.get_running_loop().time() + GATHER)
        return True

    def add_later(self, tenants: Sequence[str]) -> bool:
        """Has many tenants confirmed, or read where that is what they need. False: none is, read them.

        It looks at none of them yet: checks wait meanwhile, and it may be everything held.
        """
        if not self._can_ask():
            return False
        if self._open and tenants:
            if not self._later:
                pause = random.uniform(0, SPREAD)  # noqa: S311 - spreads calls, hides nothing
                self._later_from = asyncio.get_running_loop().time() + pause
            self._later |= dict.fromkeys(tenants)
            self._plan(self._later_from)
        return True

    def _confirms(self, tenant_id: str) -> bool:
        return self._can_ask() and self._store.to_confirm(tenant_id) is not None

    def _can_ask(self) -> bool:
        return self._confirmer is not None and asyncio.get_running_loop().time() >= self._supported_from

    def _plan(self, due: float) -> None:
        """Asks at an instant of the loop's clock, unless it is planned to ask sooner."""
        due = max(due, self._not_before)
        if self._running is None and (self._timer is None or due < self._timer.when()):
            self._unplan()
            self._timer = asyncio.get_running_loop().call_at(due, self._begin)

    def _unplan(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _begin(self) -> None:
        self._timer = None
        asked = self._take()
        if asked and self._confirmer is not None:
            self._running = asyncio.get_running_loop().create_task(self._once(self._confirmer, asked))
            self._running.add_done_callback(self._ended)
        else:
            self._go_on()

    def _take(self) -> dict[str, _Asked]:
        """What to ask about next; what was settled meanwhile is left out, and what was named is read."""
        asked: dict[str, _Asked] = {}
        while len(asked) < AT_ONCE and (tenant_id := self._next()) is not None:
            held = self._store.to_confirm(tenant_id)
            if held is not None:
                asked[tenant_id] = _Asked(held, self._store.floor(tenant_id))
            elif not self._store.is_settled(tenant_id):
                self._backlog.add_later(tenant_id)
        return asked

    def _next(self) -> str | None:
        if self._soon:
            return self._soon.popitem(last=False)[0]
        if self._later and asyncio.get_running_loop().time() >= self._later_from:
            # The last is the one that was looked at last: most likely it is looked at next.
            return self._later.popitem()[0]
        return None

    def _ended(self, _: asyncio.Task[None]) -> None:
        self._running = None
        self._go_on()

    def _go_on(self) -> None:
        if self._soon:
            self._plan(self._not_before)
        elif self._later:
            self._plan(self._later_from)

    async def _once(self, confirmer: Confirmer, asked: Mapping[str, _Asked]) -> None:
        # Both before the question: what the plan store says is at least as new as this.
        beginnings, began = self._loader.beginnings, self._loader.clock.monotonic()
        versions = {tenant_id: one.held.snapshot.version for tenant_id, one in asked.items()}
        try:
            told = await believable(confirmer, versions)
        except UnsupportedError as error:
            _log.info("%s", error)
            self._leave_to_backlog(asked)
        except EntitlementsError as error:
            _log.debug("%d versions could not be confirmed: %s", len(asked), error)
            wait = error.retry_after if isinstance(error, RetryableError) else None
            self._failed(asked, wait or 0.0)
        except Exception:  # noqa: BLE001 - logged whole
            # A defect in asking must not end what confirms everything held.
            _log.exception("confirming what is held failed unexpectedly")
            self._failed(asked, 0.0)
        else:
            self._failures = 0
            self._rest(PAUSE, 2 * PAUSE)
            covered = 0 < beginnings == self._loader.beginnings
            for tenant_id, one in asked.items():
                outcome = told.outcome(tenant_id)
                metrics.revalidations.labels(outcome).inc()
                if outcome == "confirmed":
                    self._confirm(one.held, told, began, covered=covered)
                else:
                    self._learn(tenant_id, one, told)

    def _learn(self, tenant_id: str, asked: _Asked, told: Confirmed) -> None:
        """Acts on what is not the newest. What was learned meanwhile from elsewhere stays."""
        same = self._store.to_confirm(tenant_id) is asked.held
        if tenant_id in told.outdated:
            if same:
                self._backlog.add(tenant_id)
        elif same and self._store.floor(tenant_id) > asked.floor:
            # The feed has named it meanwhile: someone who just paid must not stay locked out.
            self.add(tenant_id)
        elif same:
            self._loader.disown(tenant_id)

    def _confirm(self, held: HeldTenant, told: Confirmed, began: float, *, covered: bool) -> None:
        # What was replaced or named meanwhile is known better by now.
        if self._store.to_confirm(held.snapshot.tenant_id) is held:
            self._store.confirm(held, told.true_at, began, followed=covered)

    def _failed(self, asked: Mapping[str, _Asked], wait: float) -> None:
        metrics.revalidations.labels("failed").inc(len(asked))
        self._failures += 1
        longest = min(LONGEST_PAUSE, PAUSE * 2.0 ** min(self._failures, 10))
        # No sooner than the plan store has asked for, and not all sidecars at that instant.
        self._rest(max(longest / 2, wait), max(longest, 2 * wait))
        if self._open:
            self._soon.update(dict.fromkeys(asked))

    def _leave_to_backlog(self, asked: Mapping[str, _Asked]) -> None:
        self._supported_from = asyncio.get_running_loop().time() + UNSUPPORTED_FOR
        for tenant_id in (*asked, *self._soon, *self._later):
            self._backlog.add_later(tenant_id)
        self._soon.clear()
        self._later.clear()

    def _rest(self, least: float, most: float) -> None:
        pause = random.uniform(least, most)  # noqa: S311 - spreads calls, hides nothing
        self._not_before = asyncio.get_running_loop().time() + pause
