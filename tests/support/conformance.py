"""Reads the cases of `conformance/`, and says what an answer and an expectation have in common."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import yaml
from jsonschema import Draft202012Validator

from entitlement_sidecar.domain.break_glass import BreakGlass, BreakGlassAction
from entitlement_sidecar.domain.decision import CheckMode, CheckRequest, Decision
from entitlement_sidecar.wire.snapshot_file import SnapshotFile, parse_snapshot_file

ROOT = Path(__file__).parents[2] / "conformance"
FILES = sorted((ROOT / "decisions").glob("*.yaml"))

UNKNOWN, UNHEARD = "unknown", "unheard"


class FiledCase(msgspec.Struct, frozen=True):
    """One case as its file has it, with a tenant of its own."""

    concept: str
    number: int
    raw: dict[str, Any]
    now: datetime

    @property
    def tenant_id(self) -> str:
        """A tenant of its own, so that cases do not meet."""
        return f"{self.concept}-{self.number}"

    @property
    def name(self) -> str:
        """How a failure is found in the file."""
        return f"{self.concept}.yaml, case {self.number}: {self.raw['intent']}"


class Case(FiledCase, frozen=True):
    """A case of a decision; `tenant_id` names its tenant in the snapshot file of its concept."""

    def uses(self) -> Iterator[tuple[datetime, CheckRequest, bool]]:
        """What happened before: when, what, and whether it was admitted."""
        for number, use in enumerate(self.raw.get("before", ())):
            request = self._request(use, use["consume"], f"before-{number}")
            yield instant(use.get("at")) or self.now, request, not use.get("denied", False)

    def break_glass(self) -> tuple[BreakGlass, ...]:
        """What an operator did in an emergency."""
        return tuple(
            BreakGlass(
                id=raw["id"],
                action=BreakGlassAction.OPEN if "open" in raw else BreakGlassAction.FREEZE,
                since=instant(raw.get("since")) or self.now - timedelta(hours=1),
                until=datetime.fromisoformat(raw["until"]),
                reason="an incident",
                feature=raw.get("open", ""),
                tenant_id="" if raw.get("all") else self.tenant_id,
            )
            for raw in self.raw.get("break_glass", ())
        )

    def request(self) -> CheckRequest:
        """What is asked."""
        check = self.raw["check"]
        request = self._request(check, check.get("consume"), "asked")
        if "value" not in check:
            return request
        return msgspec.structs.replace(request, requested_value=check["value"], has_requested_value=True)

    def _request(self, raw: dict[str, Any], consume: int | None, request_id: str) -> CheckRequest:
        consuming = bool(consume)
        return CheckRequest(
            tenant_id=self.tenant_id,
            feature=raw["feature"],
            mode=CheckMode.CONSUME if consuming else CheckMode.PEEK,
            quantity=raw.get("peek", 1) if consume is None else consume,
            subject=raw.get("subject", ""),
            request_id=request_id if consuming else "",
        )


class Concept(msgspec.Struct, frozen=True):
    """One file of cases, and all their tenants as one snapshot file."""

    name: str
    cases: list[Case]
    text: str
    file: SnapshotFile


def instant(text: str | None) -> datetime | None:
    """An instant of a case."""
    return None if text is None else datetime.fromisoformat(text).astimezone(UTC)


@cache
def concept(path: Path) -> Concept:
    """Reads one file and everything in it."""
    raw = plain(path)
    validator = Draft202012Validator(json.loads((ROOT / "decisions.schema.json").read_text()))
    problems = [f"{path.name}: {error.json_path}: {error.message}" for error in validator.iter_errors(raw)]
    assert not problems, "\n".join(problems)
    cases = [
        Case(path.stem, number, case, datetime.fromisoformat(case.get("now", raw["now"])))
        for number, case in enumerate(raw["cases"], 1)
    ]
    tenants = {
        case.tenant_id: case.raw.get("tenant", {})
        for case in cases
        if isinstance(case.raw.get("tenant", {}), dict)
    }
    # YAML holds JSON, so the composed file is read as any other.
    text = json.dumps({"catalogue": path.stem, **raw["catalogue"], "tenants": tenants}, ensure_ascii=False)
    return Concept(path.stem, cases, text, parse_snapshot_file(text, path.name))


def all_cases() -> list[Case]:
    """Every case of every concept."""
    return [case for path in FILES for case in concept(path).cases]


class _Loader(yaml.SafeLoader):
    """Dates stay text, and only true and false are booleans, as in catalogue files."""


_Loader.yaml_implicit_resolvers = {
    first: [
        (tag, pattern)
        for tag, pattern in resolvers
        if tag not in {"tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:bool"}
    ]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("^(?:true|false)$"), ["t", "f"])


def plain(path: Path) -> dict[str, Any]:
    """What a file of cases says."""
    loaded: dict[str, Any] = yaml.load(path.read_text(), Loader=_Loader)  # noqa: S506 - a safe loader
    return loaded


def mismatches(case: Case, answer: dict[str, Any]) -> list[str]:
    """What of an answer is not as expected."""
    expected = {"degradation": "NONE", **case.raw["expect"]}
    wrong = []
    for name, want in expected.items():
        got = _partly(answer[name], want) if name == "credits" else answer[name]
        if name in {"warnings", "obligations"}:
            got, want = sorted(got), sorted(want)  # noqa: PLW2901 - in any order
        if name in {"window_start", "reset_at"}:
            want = instant(want)  # noqa: PLW2901
        if got != want or isinstance(got, bool) != isinstance(want, bool):
            wrong.append(f"{name} is {got!r}, expected {want!r}")
    return wrong


def _partly(uses: list[dict[str, Any]], want: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of each credit grant what the case names."""
    if len(uses) != len(want):
        return uses
    return [{key: _text(use[key]) for key in each} for use, each in zip(uses, want, strict=True)]


def _text(value: Any) -> Any:
    return value.strftime("%Y-%m-%dT%H:%M:%SZ") if isinstance(value, datetime) else value


def told(decision: Decision) -> dict[str, Any]:
    """A decision in the words of the cases."""
    return {
        "allowed": decision.allowed,
        "reason": decision.reason.name,
        "degradation": decision.degradation.name,
        "value": decision.value,
        "limit": decision.limit,
        "used": decision.used,
        "remaining": decision.remaining,
        "window_start": decision.window_start,
        "reset_at": decision.reset_at,
        "soft": decision.soft,
        "overage": decision.overage,
        "retry_after": decision.retry_after,
        "provenance": [f"{one.kind.name} {one.id}" for one in decision.provenance],
        "warnings": [f"{one.kind.name} {one.detail}" for one in decision.warnings],
        "obligations": [
            name for name in ("evaluation_required", "governance_required") if getattr(decision, name)
        ],
        "notes": list(decision.notes),
        "credits": [
            {
                "grant": use.grant,
                "amount": use.amount,
                "used": use.used,
                "remaining": use.remaining,
                "burnt": use.burnt,
                "expires_at": use.expires_at,
            }
            for use in decision.credits
        ],
    }
