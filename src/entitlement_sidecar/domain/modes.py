"""Which mode a feature's limits have together, and what becomes of tokens whose holder is lost.

    strict       the authority admits each use
    local_deny   the sidecar denies from the last view, the authority admits
    leased       the sidecar admits from its lease; what a lost holder had is forfeited, or reclaimed
    optimistic   the sidecar admits at once and tells the authority afterwards (soft limits only)

A lease holds of every limit of a feature at once, so a feature has one mode: that of its strictest limit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from entitlement_sidecar.domain.catalogue import Limit, LimitMode
from entitlement_sidecar.domain.lease import OnHolderLoss

DEFAULT_MODE = LimitMode.LEASED
"""The mode of a limit that says none."""

OPTIMISTIC_SHARE = 100
"""A sidecar admits one part in so many of an optimistic limit, at most, before it looks again."""

_BY_STRICTNESS = (LimitMode.STRICT, LimitMode.LOCAL_DENY, LimitMode.LEASED, LimitMode.OPTIMISTIC)


def strictest(modes: Iterable[LimitMode]) -> LimitMode | None:
    """The strictest of several modes; None of none."""
    return min(modes, key=_BY_STRICTNESS.index, default=None)


def said_modes(limits: Iterable[Limit]) -> Iterator[LimitMode]:
    """The modes that limits say."""
    return (limit.mode for limit in limits if limit.mode is not None)


def said_loss(limits: Iterable[Limit]) -> OnHolderLoss | None:
    """What limits say of lost holders: forfeit, where any does. None: none says anything."""
    return min((limit.on_holder_loss for limit in limits if limit.on_holder_loss is not None), default=None)


def mode_of(limits: Iterable[Limit]) -> LimitMode:
    """The mode that a feature with these limits has: the strictest. What says none is leased."""
    return strictest(limit.mode or DEFAULT_MODE for limit in limits) or DEFAULT_MODE


def on_loss_of(limits: Iterable[Limit]) -> OnHolderLoss:
    """What becomes of the tokens of a lost holder: forfeited unless every limit takes them back.

    A soft limit that does not say takes them back; a hard one, and no limit at all, does not.
    """
    found = {limit.on_holder_loss or _by_default(limit) for limit in limits}
    return OnHolderLoss.RECLAIM if found == {OnHolderLoss.RECLAIM} else OnHolderLoss.FORFEIT


def optimistic_bound(limits: Iterable[Limit]) -> int:
    """How much a sidecar admits of optimistic limits before it looks again, at most; it publishes this.

    A use of more, or one when so much was admitted since the last look, asks the authority.
    """
    amounts = [limit.amount for limit in limits if limit.amount is not None]
    return min(amounts, default=0) // OPTIMISTIC_SHARE


def _by_default(limit: Limit) -> OnHolderLoss:
    return OnHolderLoss.RECLAIM if limit.soft else OnHolderLoss.FORFEIT
