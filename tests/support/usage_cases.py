"""Reads the cases of `conformance/usage`: an event, what came before it, and what becomes of it."""

from __future__ import annotations

import json
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
from jsonschema import Draft202012Validator

from entitlement_sidecar.domain.catalogue import Catalogue
from entitlement_sidecar.domain.usage import UsageResult
from entitlement_sidecar.wire.catalogue_file import parse_catalogue
from entitlement_sidecar.wire.codec import to_timestamp
from entitlement_sidecar.wire.v1 import usage_pb2
from support.conformance import ROOT, FiledCase, plain

FILES = sorted((ROOT / "usage").glob("*.yaml"))

Outcome = tuple[str, str, str]
"""Outcome, rule and classification by their names; empty where there is none."""


class Arriving(msgspec.Struct, frozen=True):
    """An event, and when it arrives at the plan store."""

    message: usage_pb2.UsageEvent
    at: datetime

    @property
    def can_be_reported(self) -> bool:
        """Whether services can report it, and not only a sidecar ship it."""
        return not (self.message.feature or self.message.corrects)


class UsageCase(FiledCase, frozen=True):
    """A case of what becomes of usage."""

    def before(self) -> list[Arriving]:
        """What came before, in order."""
        return [self._arriving(raw) for raw in self.raw.get("before", ())]

    def event(self) -> Arriving:
        """What the case is about."""
        return self._arriving(self.raw["event"])

    def expected(self, *, at_sidecar: bool) -> Outcome:
        """What becomes of the event, where it is asked."""
        want = self.raw["expect"]
        if at_sidecar:
            want = self.raw.get("sidecar", want)
        return want["outcome"], want.get("rule", ""), want.get("classification", "")

    def _arriving(self, raw: dict[str, Any]) -> Arriving:
        at = datetime.fromisoformat(raw["at"]) if "at" in raw else self.now
        recorded_at = datetime.fromisoformat(raw["recorded_at"]) if "recorded_at" in raw else at
        occurred_at = datetime.fromisoformat(raw["occurred_at"]) if "occurred_at" in raw else recorded_at
        said = {name: value for name, value in raw.items() if name not in _INSTANTS}
        message = usage_pb2.UsageEvent(
            **{"id": "asked", "value": 1, "correlation_id": "work", **said},
            tenant_id=self.tenant_id,
            occurred_at=to_timestamp(occurred_at),
            recorded_at=to_timestamp(recorded_at),
        )
        return Arriving(message, at)


_INSTANTS = ("at", "occurred_at", "recorded_at")


class UsageConcept(msgspec.Struct, frozen=True):
    """One file of cases, and its catalogue."""

    name: str
    cases: list[UsageCase]
    text: str
    catalogue: Catalogue


@cache
def usage_concept(path: Path) -> UsageConcept:
    """Reads one file and everything in it."""
    raw = plain(path)
    validator = Draft202012Validator(json.loads((ROOT / "usage.schema.json").read_text()))
    problems = [f"{path.name}: {error.json_path}: {error.message}" for error in validator.iter_errors(raw)]
    assert not problems, "\n".join(problems)
    now = datetime.fromisoformat(raw["now"])
    cases = [UsageCase(path.stem, number, case, now) for number, case in enumerate(raw["cases"], 1)]
    if "example" in raw:
        text = (ROOT.parent / "examples" / "catalogues" / f"{raw['example']}.yaml").read_text("utf-8")
    else:
        text = json.dumps({"catalogue": path.stem, **raw["catalogue"]})
    return UsageConcept(path.stem, cases, text, parse_catalogue(text, path.name))


def told(result: UsageResult) -> Outcome:
    """An outcome in the words of the cases."""
    counts = result.classification.name if result.classification else ""
    return result.outcome.name, str(result.rule), counts
