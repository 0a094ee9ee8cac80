"""What of usage waits for an operator, as metrics: events in quarantine, sources that fell silent."""

from __future__ import annotations

from entitlement_sidecar.domain.clock import Clock
from entitlement_sidecar.planstore.db import Database
from entitlement_sidecar.planstore.usage.quarantine import held_by_rule
from entitlement_sidecar.planstore.usage.sources import count_silent
from entitlement_sidecar.telemetry import metrics

EVERY = 60.0
"""Seconds between two looks."""


class Attention:
    """Looks, and sets the gauges. Every replica shows the same."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._rules: set[str] = set()

    def step(self) -> None:
        """One look."""
        with self._database.reading() as session:
            held = held_by_rule(session)
            silent = count_silent(session, self._clock.now())
        # A rule that holds nothing any more says so, rather than that its number stays.
        self._rules |= held.keys()
        for rule in self._rules:
            metrics.quarantined_events.labels(rule).set(held.get(rule, 0))
        metrics.silent_sources.set(silent)
