"""What REST says to those who call it wrongly: what would be right, in words of the product."""

from __future__ import annotations

from typing import Any

import pytest

from entitlement_sidecar.planstore.db import Database
from support.shop import Shop

SUBSCRIPTION = "/api/billing/organizations/acme/subscription"


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"plan": "basic", "colour": 1}, "colour: not known here: /docs lists what this call takes"),
        ({}, "plan: missing, and required"),
        ([], "body: expected a JSON object"),
        ("basic", "body: expected a JSON object"),
        ({"plan": "basic", "add_ons": 7}, "add_ons: expected a JSON object"),
    ],
)
def test_malformed_bodies(database: Database, body: Any, told: str) -> None:
    """Nothing of the framework's own vocabulary."""
    refused = Shop(database).rest.post(SUBSCRIPTION, json=body)
    assert (refused.status_code, refused.json()["detail"]) == (422, told)


def test_wrong_methods_and_paths(database: Database) -> None:
    """The methods of a path are all named, also where several routes share it."""
    rest = Shop(database).rest
    refused = rest.request("PUT", SUBSCRIPTION)
    assert (refused.status_code, refused.headers["allow"]) == (405, "GET, POST")
    assert refused.json()["detail"] == "PUT is not for this path, which takes GET, POST"
    missing = rest.get("/api/billing/subscriptions")
    assert (missing.status_code, missing.json()["reason"]) == (404, "NOT_FOUND")
    assert missing.json()["detail"] == "no such path: /docs lists all there are"
