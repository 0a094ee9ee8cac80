"""A plan store killed at any instant: who sends again with the same key has it done once.

Credits are what it shows on: each grant that is made twice is another grant. More kills:
`KILLS=50 pytest tests/e2e/test_idempotency_crash.py`.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Event

import httpx
import pytest

from support.processes import Planstore
from support.waiting import until

KILLS = int(os.environ.get("KILLS", "4"))
SEED = int(os.environ.get("KILL_SEED", "20260"))
CLIENTS = 3
CREDITS = "/api/billing/organizations/acme/credits"


def granted(store: Planstore, key: str) -> httpx.Response | None:
    """The answer, once there is one that says that it was done."""
    body = {"feature": "gems", "amount": 5, "reason": key}
    try:
        answer = store.rest("POST", CREDITS, json=body, headers={"Idempotency-Key": key})
    except httpx.TransportError:
        return None
    # Being stopped, or still at the first one: the same again, later.
    assert answer.status_code in {201, 409, 503}, answer.text
    return answer if answer.status_code == 201 else None


def client(store: Planstore, name: str, enough: Event) -> dict[str, str]:
    """Grants one after another, each until it is answered; the grant's id by key."""
    found: dict[str, str] = {}
    while not enough.is_set():
        key = f"{name}-{len(found)}"
        answer = until(partial(granted, store, key), f"{key} to be answered", timeout=60)
        found[key] = answer.json()["id"] if answer else ""
    return found


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
@pytest.mark.timeout(300)
def test_every_key_is_done_once(
    planstore: Callable[..., Planstore], kind: str, request: pytest.FixtureRequest
) -> None:
    """As many grants as keys, each the one that was answered, whenever the plan store was killed."""
    database = request.getfixturevalue("postgres_dsn") if kind == "postgresql" else ""
    store = planstore(**({"database": database} if database else {}))
    store.rest("POST", "/api/billing/organizations/acme/subscription", json={"plan": "team"})
    dice, enough = random.Random(SEED), Event()  # noqa: S311 - a test's dice
    with ThreadPoolExecutor(CLIENTS) as pool:
        clients = [pool.submit(client, store, f"client-{n}", enough) for n in range(CLIENTS)]
        try:
            for _ in range(KILLS):
                Event().wait(dice.uniform(0.05, 0.6))
                store.kill()
                store.start(migrated=True)
        finally:
            enough.set()
        answered = {key: grant for one in clients for key, grant in one.result().items()}
    stored = {}
    cursor = ""
    while cursor is not None:
        page = store.rest("GET", f"{CREDITS}?limit=100&cursor={cursor}").json()
        stored |= {one["id"]: one["reason"] for one in page["credits"]}
        cursor = page["next_cursor"]
    assert stored == {grant: key for key, grant in answered.items()}
    assert len(answered) > KILLS
