"""What can become of a usage event, by outcome and rule: the table of `docs/reference/usage-outcomes.md`."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from entitlement_sidecar.domain.ruling import RuleName
from entitlement_sidecar.domain.usage import UsageOutcome

DECLARED = "key of a rule"
"""Stands for the rules that a catalogue declares."""


class Place(StrEnum):
    """Where an outcome is decided."""

    SIDECAR = "sidecar"
    PLAN_STORE = "plan store"
    BOTH = "sidecar, plan store"


class Fate(StrEnum):
    """What is left of an event."""

    COUNTS = "kept, counts"
    NOT_BILLED = "kept, not billed"
    HELD = "kept, does not count"
    ONCE = "kept before"
    GONE = "not kept"


class Meaning(msgspec.Struct, frozen=True):
    """One row: an outcome by one rule (empty: by none), what it means, and what a service should do."""

    outcome: UsageOutcome
    rule: str
    place: Place
    fate: Fate
    meaning: str
    advice: str
    retriable: bool = False


_NOTHING = "nothing"
_CORRECT_IT = "send it with what the reason asks for, under the same id"

MEANINGS = (
    Meaning(
        UsageOutcome.ACCEPTED,
        "",
        Place.BOTH,
        Fate.COUNTS,
        "It is on the sidecar's disk; at the plan store, in the ledger, classified as its metric says.",
        _NOTHING,
    ),
    Meaning(
        UsageOutcome.ACCEPTED,
        DECLARED,
        Place.BOTH,
        Fate.NOT_BILLED,
        "The catalogue forbids billing it: it is NON_BILLABLE by that rule.",
        _NOTHING,
    ),
    Meaning(
        UsageOutcome.ACCEPTED,
        RuleName.TERMINAL,
        Place.PLAN_STORE,
        Fate.NOT_BILLED,
        "It happened after the event that ended its correlation id: it is NON_BILLABLE.",
        _NOTHING,
    ),
    Meaning(
        UsageOutcome.LATE_ACCEPTED,
        RuleName.LATE,
        Place.PLAN_STORE,
        Fate.COUNTS,
        "The window that it belongs to had ended when it was recorded; an aggregate that was closed is "
        "`adjusted`.",
        "report sooner, where that can be",
    ),
    Meaning(
        UsageOutcome.DUPLICATE,
        RuleName.IDENTITY,
        Place.BOTH,
        Fate.ONCE,
        "The same id and the same content came before: it counts once, or never where it was discarded.",
        _NOTHING,
    ),
    Meaning(
        UsageOutcome.CONFLICT,
        RuleName.IDENTITY,
        Place.BOTH,
        Fate.GONE,
        "The same id came before with other content, which stands.",
        "give each fact an id of its own; to change a fact, correct it",
    ),
    Meaning(
        UsageOutcome.UNKNOWN_METRIC,
        RuleName.METRIC,
        Place.SIDECAR,
        Fate.HELD,
        "The catalogue that the sidecar holds does not name its metric. It is shipped all the same: the "
        "plan store's catalogue decides, and quarantines what it does not name either.",
        "nothing where the metric is new; else check its key",
    ),
    Meaning(
        UsageOutcome.QUARANTINED,
        RuleName.METRIC,
        Place.PLAN_STORE,
        Fate.HELD,
        "No catalogue names its metric.",
        "apply a catalogue that names it, then release it from quarantine",
    ),
    Meaning(
        UsageOutcome.QUARANTINED,
        RuleName.EMITTER,
        Place.BOTH,
        Fate.HELD,
        "It is billable or corrects what is, and its emitter is external, not registered, or not one of this "
        "metric's.",
        "register the emitter and release it, or discard it",
    ),
    Meaning(
        UsageOutcome.QUARANTINED,
        RuleName.ORIGINAL,
        Place.PLAN_STORE,
        Fate.HELD,
        "A correction of an event that is not in the ledger: not yet, or no more.",
        "release it once its original is there, or discard it",
    ),
    Meaning(
        UsageOutcome.QUARANTINED,
        RuleName.RESERVATION,
        Place.PLAN_STORE,
        Fate.HELD,
        "A settlement of a reservation that was never made, or was over for more than 35 days.",
        "report the usage as an event of its metric, and discard this one",
    ),
    Meaning(
        UsageOutcome.LATE_REFUSED,
        RuleName.AGE,
        Place.BOTH,
        Fate.GONE,
        "It happened longer before it was recorded than its metric's `max_age`.",
        "report sooner, or raise `max_age` and send it again",
    ),
    Meaning(
        UsageOutcome.LATE_REFUSED,
        RuleName.CLOSED,
        Place.PLAN_STORE,
        Fate.GONE,
        "Its window, or that of the event that it corrects, is closed, and the metric refuses what comes "
        "after that.",
        "settle it outside, or change `after_close` and replay it from the dead letters",
    ),
    Meaning(
        UsageOutcome.INVALID,
        RuleName.MALFORMED,
        Place.BOTH,
        Fate.GONE,
        "A field has a form that the contract does not allow.",
        _CORRECT_IT,
    ),
    Meaning(
        UsageOutcome.INVALID,
        RuleName.TENANT,
        Place.SIDECAR,
        Fate.GONE,
        "The caller may not report about this tenant.",
        "give the caller the tenant in the callers file",
    ),
    Meaning(
        UsageOutcome.INVALID,
        RuleName.EMITTER,
        Place.BOTH,
        Fate.GONE,
        "The caller reports in the name of an emitter that it may not speak for, or an import says what only "
        "a sidecar may.",
        "leave `emitter` empty, or list it among the caller's `emitters`",
    ),
    Meaning(
        UsageOutcome.INVALID,
        RuleName.UNIT,
        Place.BOTH,
        Fate.GONE,
        "It was counted in another unit than its metric's.",
        "convert the value, or leave `unit` empty",
    ),
    Meaning(
        UsageOutcome.INVALID,
        RuleName.CORRELATION,
        Place.BOTH,
        Fate.GONE,
        "Billable usage has to name the work that caused it.",
        _CORRECT_IT,
    ),
    Meaning(
        UsageOutcome.INVALID,
        RuleName.FUTURE,
        Place.BOTH,
        Fate.GONE,
        "It happens longer after it was recorded than its metric's `max_future`.",
        "check the clocks",
    ),
    Meaning(
        UsageOutcome.INVALID,
        RuleName.ORIGINAL,
        Place.PLAN_STORE,
        Fate.GONE,
        "A correction of a correction.",
        "correct the original: the last correction of it holds",
    ),
    Meaning(
        UsageOutcome.INVALID,
        DECLARED,
        Place.BOTH,
        Fate.GONE,
        "The catalogue refuses it by that rule.",
        "do not report it",
    ),
    Meaning(
        UsageOutcome.INVALID,
        RuleName.ATOMIC,
        Place.SIDECAR,
        Fate.GONE,
        "It could have been kept, but another part of the same atomic call could not.",
        "repair the other part and send the call again",
        retriable=True,
    ),
)
"""Every outcome by every rule that can decide it."""
