"""What the audit log says of a catalogue: from which version to which, and what is new, other or gone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from entitlement_sidecar.domain.catalogue import Catalogue
from entitlement_sidecar.domain.values import alike
from entitlement_sidecar.planstore.audit import Change

KINDS = ("features", "metrics", "plans", "add_ons", "emitters", "rules", "task_metrics", "retention")


def applied(before: tuple[int, Catalogue] | None, after: tuple[int, Catalogue], shards: int) -> Change:
    """A catalogue came into force; both sides are a version and what it says."""
    version, catalogue = after
    changed = {kind: _changed(before, catalogue, kind) for kind in KINDS}
    return Change(
        action="catalogue.applied",
        resource=f"catalogue/{version}",
        before=None if before is None else {"version": before[0], "name": before[1].name},
        after={
            "version": version,
            "name": catalogue.name,
            "feed_shards": shards,
            **{kind: found for kind, found in changed.items() if found},
        },
    )


def _changed(before: tuple[int, Catalogue] | None, after: Catalogue, kind: str) -> dict[str, list[str]]:
    old = {} if before is None else _entries(before[1], kind)
    new = _entries(after, kind)
    found = {
        "added": sorted(new.keys() - old.keys()),
        "changed": sorted(key for key in new.keys() & old.keys() if not alike(new[key], old[key])),
        "removed": sorted(old.keys() - new.keys()),
    }
    return {what: keys for what, keys in found.items() if keys}


def _entries(catalogue: Catalogue, kind: str) -> Mapping[str, Any]:
    """What a catalogue has of a kind, by key; of rules with their places: the first that holds decides."""
    found: Any = getattr(catalogue, kind)
    if kind == "rules":
        return {rule.key: [place, rule] for place, rule in enumerate(found)}
    if isinstance(found, msgspec.Struct):
        return {name: value for name in found.__struct_fields__ if (value := getattr(found, name))}
    entries: Mapping[str, Any] = found
    return entries
