"""What the usage pipeline has to come to, as lists and dictionaries: the model that tests compare it with."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from entitlement_sidecar.domain.catalogue import Classification
from entitlement_sidecar.domain.ruling import RuleName
from entitlement_sidecar.domain.usage import UsageOutcome, UsageResult
from entitlement_sidecar.wire.v1 import usage_pb2

BILLABLE, NON_BILLABLE = Classification.BILLABLE, Classification.NON_BILLABLE
KNOWN = {"jobs": BILLABLE, "pings": NON_BILLABLE, "hits": NON_BILLABLE, "done": NON_BILLABLE}
"""Metrics that every catalogue names; `done` ends its work."""

COUNTS = {UsageOutcome.ACCEPTED: "stored", UsageOutcome.DUPLICATE: "duplicates"} | {
    UsageOutcome.CONFLICT: "conflicts",
    UsageOutcome.QUARANTINED: "quarantined",
    UsageOutcome.INVALID: "refused",
}
"""How the plan store counts a sequence whose first outcome it was."""

Place = tuple[int, int]
"""Epoch and sequence."""


class Fact(NamedTuple):
    """An event, or the correction of one: then `corrects` names it, and `value` None voids it."""

    id: str
    metric: str = ""
    value: int | None = 1
    at: int = 0
    correlation: str = ""
    emitter: str = "app"
    corrects: str = ""

    @classmethod
    def of(cls, event: usage_pb2.UsageEvent) -> Fact:
        """What an event of the contract says."""
        if event.corrects:
            return cls(event.id, value=None if event.voids else event.value, corrects=event.corrects)
        at = event.occurred_at.seconds
        return cls(event.id, event.metric, event.value, at, event.correlation_id, event.emitter)


class Books(NamedTuple):
    """What an aggregate says."""

    value: int
    events: int


class Sent:
    """What a sidecar has accepted, in order, and what of it is settled."""

    def __init__(self) -> None:
        self.queued: dict[str, Fact] = {}
        self.rolled = self.rolled_there = 0
        self._lists: dict[str, list[Fact]] = defaultdict(list)
        self._arrived: dict[str, int] = defaultdict(int)
        self._places: dict[Place, Fact] = {}
        self._accepted_ids: set[str] = set()
        self._arrived_ids: set[str] = set()
        self._behind_original: set[str] = set()

    def expected(self, fact: Fact, usual: UsageOutcome) -> UsageOutcome:
        """The outcome of a report, where nothing but its identity can stand against it."""
        held = self.queued.get(fact.id)
        if held is None:
            return usual
        return UsageOutcome.DUPLICATE if held == fact else UsageOutcome.CONFLICT

    def keep(self, fact: Fact) -> None:
        """It was accepted."""
        if fact.id not in self.queued:
            self.queued[fact.id] = fact
            self._lists[fact.metric].append(fact)
            self._accepted_ids.add(fact.id)
            if fact.corrects in self._accepted_ids:
                self._behind_original.add(fact.id)

    def arrive(self, place: Place, fact: Fact) -> None:
        """It arrives at the plan store: unchanged, and for the first time in its order."""
        before = self._places.setdefault(place, fact)
        assert before == fact, f"{place} was {before}, and came as {fact}"
        if before is fact:
            at = self._arrived[fact.metric]
            assert self._lists[fact.metric][at] == fact, "in another order than they were accepted in"
            self._arrived[fact.metric] += 1
            self._arrived_ids.add(fact.id)
            late = fact.id in self._behind_original and fact.corrects not in self._arrived_ids
            assert not late, "a correction overtook its original"

    def settle(self, results: Iterable[UsageResult]) -> None:
        """The sidecar has heard what became of them."""
        for result in results:
            self.queued.pop(result.id, None)

    @property
    def all_arrived(self) -> bool:
        """Whether everything that was accepted has arrived."""
        return all(self._arrived[metric] == len(facts) for metric, facts in self._lists.items())


class Kept:
    """What a plan store holds."""

    def __init__(self) -> None:
        self.knows_later = False
        self.stored: dict[str, Fact] = {}
        self.held: dict[str, tuple[Fact, str]] = {}
        self.released: dict[str, Fact] = {}
        self.corrections: list[Fact] = []
        self._first: dict[Place, UsageOutcome] = {}

    def judge(self, fact: Fact) -> str:
        """The rule that keeps it from counting; empty where none does."""
        if fact.metric not in KNOWN and not self.knows_later:
            return RuleName.METRIC
        return RuleName.EMITTER if fact.emitter == "partner" else ""

    def settle(self, facts: Iterable[Fact]) -> Iterator[UsageOutcome]:
        """What becomes of a batch."""
        batch = list(facts)
        counting = {fact.id for fact in batch if not fact.corrects and not self.judge(fact)} | set(
            self.stored
        )
        for fact in batch:
            rule = self.judge(fact) if not fact.corrects else ""
            if fact.corrects and fact.corrects not in counting:
                rule = RuleName.ORIGINAL
            yield self._keep(fact, rule)

    def _keep(self, fact: Fact, rule: str) -> UsageOutcome:
        known = self.stored.get(fact.id)
        if known is not None:
            return UsageOutcome.DUPLICATE if known == fact else UsageOutcome.CONFLICT
        if not rule:
            self.stored[fact.id] = fact
            if fact.corrects:
                self.corrections.append(fact)
            return UsageOutcome.ACCEPTED
        aside = self.held[fact.id][0] if fact.id in self.held else self.released.get(fact.id)
        if aside is None:
            self.held[fact.id] = fact, rule
        return UsageOutcome.QUARANTINED if aside in {None, fact} else UsageOutcome.CONFLICT

    def replay(self, order: Iterable[str]) -> None:
        """Judges again what is held, in the plan store's order of it."""
        facts = [self.held[id_][0] for id_ in order]
        before = {fact.id for fact in facts}
        for fact, outcome in zip(facts, self.settle(facts), strict=True):
            assert fact.id in before
            if outcome in {UsageOutcome.ACCEPTED, UsageOutcome.DUPLICATE}:
                self.released[fact.id] = self.held.pop(fact.id)[0]
            elif outcome is UsageOutcome.CONFLICT:
                self.held[fact.id] = fact, RuleName.IDENTITY
            elif fact.corrects:
                self.held[fact.id] = fact, RuleName.ORIGINAL
            else:
                self.held[fact.id] = fact, self.judge(fact)

    def note(self, place: Place, outcome: UsageOutcome) -> None:
        """Each place is counted once, by its first outcome."""
        self._first.setdefault(place, outcome)

    def counts(self) -> dict[int, Counter[str]]:
        """Of each epoch, how often each outcome was the first."""
        found: dict[int, Counter[str]] = defaultdict(Counter)
        for (epoch, _), outcome in self._first.items():
            found[epoch][COUNTS[outcome]] += 1
        return found

    def places(self) -> set[Place]:
        """Those that have come."""
        return set(self._first)

    def classification(self, fact: Fact) -> Classification:
        """What an event counts as: billable work is none after its end."""
        usual = KNOWN.get(fact.metric, BILLABLE)
        ends = [one.at for one in self.stored.values() if one.metric == "done"]
        ended = any(
            one.correlation == fact.correlation and one.at < fact.at
            for one in self.stored.values()
            if one.metric == "done"
        )
        return NON_BILLABLE if usual is BILLABLE and ends and ended else usual

    def books(self) -> dict[tuple[str, Classification], Books]:
        """What aggregates say, by metric and classification; rollups are not among them."""
        last = {one.corrects: one.value for one in self.corrections}
        found: dict[tuple[str, Classification], Books] = {}
        for fact in self.stored.values():
            value = last.get(fact.id, fact.value)
            if fact.corrects or value is None:
                continue
            key = fact.metric, self.classification(fact)
            old = found.get(key, Books(0, 0))
            found[key] = Books(old.value + value, old.events + 1)
        return found
