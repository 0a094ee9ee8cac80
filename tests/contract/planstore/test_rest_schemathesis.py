"""REST against its own OpenAPI document: Schemathesis makes requests that fit it, and requests that do not.

Every answer has to be one that the document declares, of the declared type and form; what does not fit is
refused; nothing is a server error. The requests are the same in each run.
"""

from __future__ import annotations

import math
import os

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode, checks, openapi
from schemathesis.schemas import APIOperation
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from entitlement_sidecar.planstore.api import openapi as own
from entitlement_sidecar.planstore.api.app import create_app
from support.shop import AUTHORISED, CATALOGUE, Shop


def operations() -> dict[str, APIOperation]:
    """By name, without security: who may call what has tests of its own."""
    document = create_app(own.absent_dependencies()).openapi()
    for _, _, operation in own.operations(document):
        del operation["security"]
    found = [one.ok() for one in openapi.from_dict(document).get_all_operations()]
    return {one.definition.raw["operationId"]: one for one in found}


OPERATIONS = operations()
EXAMPLES = int(os.environ.get("REQUESTS", "8"))
"""Requests for each operation."""

CHECKS = [
    checks.not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    negative_data_rejection,
]
KNOWN = {"tenant_id": "acme", "feature": "calls", "plan": "basic"}
"""Names that the shop knows, so that requests do not all end at what is not there."""


@pytest.mark.parametrize("name", sorted(OPERATIONS))
def test_every_answer_is_as_declared(shop: Shop, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is sent, the answer is one of the document's."""
    # Bulk work is paced by a clock, which stands still here.
    monkeypatch.setattr("entitlement_sidecar.planstore.snapshots.bulk.PER_SECOND", math.inf)
    shop.subscribe()
    requests = st.one_of(OPERATIONS[name].as_strategy(generation_mode=mode) for mode in GenerationMode)

    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=requests, familiar=st.booleans())
    def answers(case: Case, familiar: bool) -> None:
        # What does not fit must not be made to fit.
        if familiar and case.meta and case.meta.generation.mode is GenerationMode.POSITIVE:
            _make_familiar(case)
        case.validate_response(_send(shop, case), checks=CHECKS)

    answers()


def _make_familiar(case: Case) -> None:
    for place in (case.path_parameters, case.body):
        if isinstance(place, dict):
            place.update({key: value for key, value in KNOWN.items() if isinstance(place.get(key), str)})
    if case.media_type == "application/yaml" and isinstance(case.body, str):
        case.body = CATALOGUE


def _send(shop: Shop, case: Case) -> httpx.Response:
    sent = case.as_transport_kwargs()
    headers = {name: text for name, text in sent["headers"].items() if name.lower() != "authorization"}
    names = {"data": "content", "json": "json", "params": "params"}
    body = {name: sent[other] for other, name in names.items() if other in sent}
    return shop.rest.request(sent["method"], sent["url"], headers={**headers, **AUTHORISED}, **body)
