"""Modes of limits in catalogue files, overrides and the contract."""

from __future__ import annotations

import msgspec
import pytest

from entitlement_sidecar.domain.catalogue import Limit, LimitMode
from entitlement_sidecar.domain.errors import InvalidInputError
from entitlement_sidecar.domain.lease import OnHolderLoss
from entitlement_sidecar.testing.builders import limit, metered, plan_grant, snapshot
from entitlement_sidecar.wire.catalogue_dump import dump_catalogue
from entitlement_sidecar.wire.catalogue_file import parse_catalogue
from entitlement_sidecar.wire.override_entry import parse_override
from entitlement_sidecar.wire.snapshot_codec import snapshot_from_proto, snapshot_to_proto
from entitlement_sidecar.wire.v1 import types_pb2
from support.catalogues import minimal, problems


def selling(limit: str) -> str:
    """A catalogue file with one limit."""
    return minimal(
        feature="{kind: metered, metric: m}",
        granted=f"{{limits: [{{amount: 1, window: month, {limit}}}]}}",
        more="metrics: {m: {domain: d, unit: u}}",
    )


@pytest.mark.parametrize(
    ("limit", "told"),
    [
        (
            "mode: lenient",
            "'lenient' is not accepted: expected one of strict, leased, local_deny, optimistic",
        ),
        ("mode: optimistic", "only soft limits may be passed: add soft: true, or remove the mode"),
        ("mode: optimistic, soft: false", "only soft limits may be passed"),
        ("on_holder_loss: forget", "'forget' is not accepted: expected one of forfeit, reclaim"),
        ("moed: strict", "'moed' is not known (did you mean 'mode'?)"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(limit: str, told: str) -> None:
    """Given a limit that says what cannot be, then one message says where and what would be right."""
    (problem,) = problems(selling(limit))
    assert told in problem
    assert "plans.p.entitlements.x.limits[0]" in problem


@pytest.mark.parametrize(
    "said",
    [
        "mode: strict",
        "soft: true, mode: optimistic",
        "mode: local_deny, on_holder_loss: reclaim",
        "mode: leased, on_holder_loss: forfeit",
        "carry_over_cap: 1",
    ],
)
def test_a_mode_is_read_and_written_as_it_was_said(said: str) -> None:
    """What says nothing stays so, and is not written as the default."""
    catalogue = parse_catalogue(selling(said), "f")
    (found,) = catalogue.plans["p"].entitlements[0].limits
    assert ("mode" in said, "on_holder_loss" in said) == (bool(found.mode), bool(found.on_holder_loss))
    written = dump_catalogue(catalogue)
    assert parse_catalogue(written, "f") == catalogue
    assert ("mode" in written, "on_holder_loss" in written) == ("mode" in said, "on_holder_loss" in said)


def test_an_override_is_checked_alike() -> None:
    """The field of the request is named."""
    entry = {"feature": "calls", "effect": "set", "reason": "pilot"}
    limits = [{"amount": 5, "window": "day", "mode": "optimistic"}]
    with pytest.raises(InvalidInputError) as refused:
        parse_override({**entry, "limits": limits}, {"calls": metered("calls")})
    assert [one.field for one in refused.value.violations] == ["limits[0].mode"]

    limits = [{"amount": 5, "window": "day", "mode": "strict"}]
    grant = parse_override({**entry, "limits": limits}, {"calls": metered("calls")})
    assert grant.limits[0].mode is LimitMode.STRICT


def there_and_back(said: Limit) -> tuple[types_pb2.Limit, Limit]:
    """A limit as it travels in a snapshot, and as it arrives."""
    message = snapshot_to_proto(snapshot("acme", plan_grant("calls", said)))
    return message.grants[0].limits[0], snapshot_from_proto(message).grants[0].limits[0]


def test_what_is_not_said_is_not_sent() -> None:
    """So a sidecar of before there were modes understands it."""
    travels, arrives = there_and_back(limit(5))
    assert {field.name for field, _ in travels.ListFields()} == {"key", "amount", "window"}
    assert (arrives.mode, arrives.on_holder_loss) == (None, None)


@pytest.mark.parametrize("mode", LimitMode)
@pytest.mark.parametrize("loss", OnHolderLoss)
def test_the_contract_carries_modes(mode: LimitMode, loss: OnHolderLoss) -> None:
    """Each has its number."""
    said = msgspec.structs.replace(limit(5), mode=mode, on_holder_loss=loss)
    travels, arrives = there_and_back(said)
    assert (travels.mode, travels.on_holder_loss) == (mode, loss)
    assert arrives == said


@pytest.mark.parametrize("field", ["mode", "on_holder_loss"])
def test_a_mode_of_a_newer_plan_store_is_not_guessed(field: str) -> None:
    """What is kept in a way that nobody here knows is not understood, and answered as such."""
    message = snapshot_to_proto(snapshot("acme", plan_grant("calls", limit(5))))
    setattr(message.grants[0].limits[0], field, 99)
    assert not snapshot_from_proto(message).grants[0].understood
