"""The walk over all states finds every rule of leases that is broken: it does look at each of them."""

from __future__ import annotations

import pytest

from entitlement_sidecar.domain import lease
from model.broken import BROKEN, Broken
from model.protocol import Protocol
from model.search import Search


@pytest.mark.parametrize("broken", BROKEN, ids=str)
def test_a_broken_rule_is_found(broken: Broken, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within the same bounds no state is wrong with the rule, and one is without it."""
    assert not Search(Protocol(broken.bounds)).run().broken
    for name, function in broken.functions.items():
        monkeypatch.setattr(lease, name, function)

    found = Search(broken.protocol(broken.bounds)).run()

    assert found.broken
    assert found.trace
