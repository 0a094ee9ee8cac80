"""One override as people write it, in a snapshot file or in a request: the same form, the same checks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from entitlement_sidecar.domain.catalogue import Feature, FeatureKind
from entitlement_sidecar.domain.errors import CatalogueError, InvalidInputError, Violation
from entitlement_sidecar.domain.snapshot import Grant
from entitlement_sidecar.wire.snapshot_file import parse_snapshot_file

_PLACE = "tenants.t.overrides[0]"


def parse_override(entry: dict[str, Any], features: Mapping[str, Feature]) -> Grant:
    """The grant of an override without an id: `{"feature": "sso", "effect": "deny", "reason": "abuse"}`.

    Raises:
        InvalidInputError: Something in it is wrong; names each field.
    """
    document = {
        "catalogue": "override",
        "features": {key: _feature(feature) for key, feature in features.items()},
        "metrics": {
            key: {"domain": "any", "unit": "any", "feature": key}
            for key, feature in features.items()
            if _is_used(feature)
        },
        "plans": {},
        "tenants": {"t": {"overrides": [{**entry, "id": "o"}]}},
    }
    try:
        file = parse_snapshot_file(json.dumps(document), "override")
    except CatalogueError as error:
        # Schema and checks may both speak of one field: once is enough.
        told = {_field(problem.path): problem.message for problem in error.problems}
        raise InvalidInputError([Violation(field, message) for field, message in told.items()]) from None
    return file.tenants["t"].grants[0]


def _feature(feature: Feature) -> dict[str, Any]:
    kind = {"kind": feature.kind.name.lower()}
    return {**kind, "metric": feature.key} if _is_used(feature) else kind


def _is_used(feature: Feature) -> bool:
    return feature.kind in {FeatureKind.METERED, FeatureKind.CREDITS}


def _field(path: str) -> str:
    return path.removeprefix(_PLACE).removeprefix(".") or "override"
