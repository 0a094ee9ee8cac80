"""Asks a model whose cost is known only afterwards.

    python llm.py acme "What is a lease?"

The most that an answer can cost is reserved before the model is asked, so that many answers at once never
pass the tenant's limit. Afterwards what it really cost is settled, and the rest is there for others.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import NamedTuple

from entitlement_sidecar.client import EntitlementsClient, Reservation

FEATURE = "output-tokens"
LONGEST = 1_000
"""Tokens of an answer at most: what a model is told as its limit."""

LASTS = 120.0
"""Seconds that an answer takes at most. A reservation that nobody settles ends after them by itself."""


class Answer(NamedTuple):
    """What a model said, and the tokens that it wrote."""

    text: str
    tokens: int


class NothingLeftError(Exception):
    """The tenant has not enough tokens left for an answer."""

    def __init__(self, reservation: Reservation) -> None:
        decision = reservation.decision
        super().__init__(f"{decision.reason.name}: {decision.remaining} of {decision.limit} tokens are left")


Model = Callable[[str], Answer]


def ask(entitlements: EntitlementsClient, tenant: str, question: str, model: Model) -> Answer:
    """Asks a model at the tenant's expense.

    Raises:
        NothingLeftError: The tenant has not enough left; the model was not asked.
        RetryableError: Nobody can say what the tenant has left; the model was not asked.
    """
    reservation = entitlements.reserve(tenant, FEATURE, LONGEST, ttl=LASTS)
    if not reservation:
        raise NothingLeftError(reservation)
    try:
        answer = model(question)
    except BaseException:
        # Nothing was used. If this is not heard either, the reservation ends in time.
        entitlements.release(tenant, reservation_id=reservation.reservation_id)
        raise
    # Kept by the sidecar even where its plan store is away: an answer that was given is billed, once.
    entitlements.settle(tenant, reservation.reservation_id, answer.tokens, {"model": "parrot"})
    return answer


def parrot(question: str) -> Answer:
    """Stands for a model, so that this runs anywhere; its tokens are words."""
    words = f"You ask: {question}".split()[:LONGEST]
    return Answer(" ".join(words), len(words))


def main() -> None:
    """One question, from the command line."""
    tenant, question = sys.argv[1:]
    with EntitlementsClient(os.environ.get("ENTITLEMENTS_SIDECAR", "127.0.0.1:7400")) as entitlements:
        try:
            answer = ask(entitlements, tenant, question, parrot)
        except NothingLeftError as error:
            raise SystemExit(str(error)) from error
    print(f"{answer.text}\n{answer.tokens} tokens")


if __name__ == "__main__":
    main()
