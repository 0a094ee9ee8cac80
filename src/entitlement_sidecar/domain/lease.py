"""Leases: who may use how much without asking (DESIGN 7). Pure: the model check walks what production runs.

    limit ──▶ root ──grants──▶ block (Redis) ──grants──▶ sidecar ──uses──▶ usage events
                └────────────grants────────────────────▶ sidecar

A grantor keeps an `Account` for each holder, and a holder keeps its `Holding` of each grantor. Both only ever
speak in totals since the account was opened: granted, used, returned. Totals only grow, so a message that
comes twice, late, or in another order changes nothing that it should not: the larger total is the newer one.
What a grantor may still grant is what it has, less what its accounts hold or have used. A grant is made
*before* it is told of, and a return is told of only *after* the holder has given up using it, so at every
instant the sum of what is used, and of what may still be used without asking, is at most the limit.
"""

from __future__ import annotations

from enum import IntEnum

import msgspec

TTL = 30.0
"""Seconds that a grant may be used, from when it was asked for, on the holder's monotonic clock."""

RENEW_AFTER = 10.0
"""Seconds after which a holder renews."""

GUARD = 2.0
"""Seconds before the end of the TTL in which nothing is used any more: an answer under way takes time."""

DRIFT = 3.0
"""Seconds that two monotonic clocks may come apart within a TTL, beside the guard."""


class OnHolderLoss(IntEnum):
    """What becomes of the tokens of a holder that is not heard of any more."""

    FORFEIT = 1
    RECLAIM = 2


class Account(msgspec.Struct, frozen=True, gc=False):
    """What a grantor knows of one holder: totals, and the last request that was granted anything.

    `sequence` numbers the holder's requests; `expires_at` is on the grantor's clock, in seconds. Once it is
    `closed` nothing more is granted, and what was not used or returned by then is spent (`reclaimed` False)
    or has been taken back.
    """

    granted: int = 0
    used: int = 0
    returned: int = 0
    sequence: int = 0
    expires_at: float = 0.0
    closed: bool = False
    reclaimed: int = 0

    @property
    def outstanding(self) -> int:
        """Tokens that the holder may be using at this instant, or has used and not yet told."""
        return max(0, self.granted - self.used - self.returned - self.reclaimed)

    @property
    def held(self) -> int:
        """Tokens that nobody else may have: outstanding or used."""
        return self.granted - self.returned - self.reclaimed


class Told(msgspec.Struct, frozen=True, gc=False):
    """What a holder says of itself, in totals, with the number of its request."""

    sequence: int
    used: int
    returned: int


class Terms(msgspec.Struct, frozen=True, gc=False):
    """What a holder is told: everything that it was ever granted, and by which request last."""

    granted: int
    sequence: int
    closed: bool = False


class Outcome(msgspec.Struct, frozen=True, gc=False):
    """An account after a request. `freed` came back to the grantor, `used` was newly told as used.

    `overdrawn` is the part of `used` whose tokens had been taken back before: it was used all the same, and
    has to be counted again, as usage that nobody admitted. The rest of `used` was held and is now admitted.
    """

    account: Account
    granted: int
    freed: int
    used: int
    overdrawn: int = 0

    @property
    def terms(self) -> Terms:
        """What the holder is told."""
        return Terms(self.account.granted, self.account.sequence, self.account.closed)


def absorb(account: Account, told: Told) -> Outcome:
    """Takes over what a holder says, as far as it is new and can be true.

    A holder cannot have used and returned more than it was granted; what it says beyond that is not believed.
    Of what was reclaimed a late settlement is believed too: `overdrawn` says what has to be counted again.
    """
    room = account.granted - account.returned
    used = min(max(account.used, told.used), room)
    returned = min(max(account.returned, told.returned), account.granted - account.reclaimed - used)
    returned = max(returned, account.returned)
    after = msgspec.structs.replace(account, used=used, returned=returned)
    newly = used - account.used
    return Outcome(after, 0, returned - account.returned, newly, max(0, newly - account.outstanding))


def grant(account: Account, told: Told, wants: int, free: int, expires_at: float) -> Outcome:
    """Absorbs what the holder says and grants up to `wants` of what is then free.

    The same request again, or one before it, is granted nothing: the answer's totals tell what it got.
    """
    heard = absorb(account, told)
    if account.closed or told.sequence <= account.sequence:
        return heard
    granted = max(0, min(wants, free + heard.freed))
    after = msgspec.structs.replace(
        heard.account,
        granted=heard.account.granted + granted,
        sequence=told.sequence,
        expires_at=expires_at,
    )
    return Outcome(after, granted, heard.freed, heard.used, heard.overdrawn)


def lose(account: Account, now: float, on_loss: OnHolderLoss) -> Outcome:
    """Closes the account of a holder whose time is over, on the grantor's clock.

    FORFEIT keeps its tokens spent; RECLAIM takes them back once no clock can let it use them any more.
    """
    if account.closed or now < account.expires_at + (DRIFT if on_loss is OnHolderLoss.RECLAIM else 0.0):
        return Outcome(account, 0, 0, 0)
    reclaimed = account.outstanding if on_loss is OnHolderLoss.RECLAIM else 0
    after = msgspec.structs.replace(account, closed=True, reclaimed=account.reclaimed + reclaimed)
    return Outcome(after, 0, reclaimed, 0)


def end(account: Account, used: int) -> Outcome:
    """Closes the account of a holder that has finished: all that it did not use comes back.

    Also what it never heard of: that is why it has to `finish` before it says so.
    """
    heard = absorb(account, Told(0, used, account.granted))
    return msgspec.structs.replace(heard, account=msgspec.structs.replace(heard.account, closed=True))


def release(account: Account) -> Outcome:
    """Takes back by hand what a closed account still has. Only a person can know that nobody uses it."""
    if not account.closed:
        return Outcome(account, 0, 0, 0)
    freed = account.outstanding
    return Outcome(msgspec.structs.replace(account, reclaimed=account.reclaimed + freed), 0, freed, 0)


def account_for(account: Account, used: int) -> Outcome:
    """Takes back what a lost holder did not use, once all that it can have used is known: by its events.

    As `release`: what it tells of more all the same has to be counted again.
    """
    if not account.closed:
        return Outcome(account, 0, 0, 0)
    heard = absorb(account, Told(0, used, 0))
    released = release(heard.account)
    return Outcome(released.account, 0, released.freed, heard.used, heard.overdrawn)


def adopt(block: Account, orphan: Account, told: Told, others: int) -> tuple[Outcome, Account]:
    """Takes over what a holder of a lost block says to the root, which never granted it anything itself.

    `block` is the block's closed account, `orphan` what this holder has said here before, `others` the uses
    that all its other holders have told here; `told.returned` counts only what the block was never told of
    (`Holding.estranged`). The block may have passed some of these uses on: used is what it has told, or what
    its holders have, whichever is more. All of them together are believed at most what it was granted. Of a
    block that is not closed nothing is taken: it counts itself.

    Returns:
        What becomes of the block's account, and what the holder has now said.
    """
    if not block.closed:
        return Outcome(block, 0, 0, 0), orphan
    used = max(orphan.used, min(told.used, block.granted - block.returned - others))
    returned = block.returned + max(0, told.returned - orphan.returned)
    heard = absorb(block, Told(0, others + used, returned))
    said = msgspec.structs.replace(orphan, used=used, returned=orphan.returned + heard.freed)
    return heard, said


class Holding(msgspec.Struct, frozen=True, gc=False):
    """What a holder has of one grantor: totals, and until when (its monotonic clock) it may use them.

    `sent` is when its last request that is not answered yet was sent; None: it waits for none. `offered` is
    how much of `returned` the grantor may have heard of, and may have granted to somebody else by now.
    """

    granted: int = 0
    used: int = 0
    returned: int = 0
    sequence: int = 0
    until: float = 0.0
    sent: float | None = None
    closed: bool = False
    offered: int = 0

    @property
    def left(self) -> int:
        """Tokens that are neither used nor given up."""
        return self.granted - self.used - self.returned

    @property
    def told(self) -> Told:
        """What the grantor is to know."""
        return Told(self.sequence, self.used, self.returned)

    @property
    def estranged(self) -> Told:
        """What the root is to know when the block is lost: of the returns, those the block never heard of.

        A return is told to one grantor alone: the lost block may live on somewhere and have granted it again.
        """
        return Told(self.sequence, self.used, self.returned - self.offered)


def use(holding: Holding, quantity: int, now: float) -> Holding | None:
    """Uses tokens, or None where they do not suffice or their time is over."""
    if now >= holding.until or quantity > holding.left:
        return None
    return msgspec.structs.replace(holding, used=holding.used + quantity)


def ask(holding: Holding, now: float) -> Holding:
    """Numbers a request and notes when it is sent: the TTL counts from here.

    One is under way at a time. Where its answer does not come the next takes its place, and only the answer
    to that one prolongs.
    """
    return msgspec.structs.replace(tell(holding), sequence=holding.sequence + 1, sent=now)


def tell(holding: Holding) -> Holding:
    """Notes, before a message leaves, that its grantor may hear of all that was given up."""
    return msgspec.structs.replace(holding, offered=holding.returned)


def hear(holding: Holding, terms: Terms, ttl: float = TTL) -> Holding:
    """Takes over an answer. Only that of the request under way prolongs; totals of others are true too."""
    granted = max(holding.granted, terms.granted)
    closed = holding.closed or terms.closed
    if holding.sent is None or terms.sequence != holding.sequence or closed:
        return msgspec.structs.replace(holding, granted=granted, closed=closed)
    until = holding.sent + ttl - GUARD
    return msgspec.structs.replace(holding, granted=granted, until=until, sent=None)


def give_up(holding: Holding, quantity: int | None = None) -> Holding:
    """Gives tokens up, all of those left by default, before the grantor is told so."""
    quantity = holding.left if quantity is None else min(quantity, holding.left)
    return msgspec.structs.replace(holding, returned=holding.returned + quantity)


def finish(holding: Holding) -> Holding:
    """Gives everything up for good, before the grantor is told to `end`: no answer brings anything then."""
    return msgspec.structs.replace(tell(give_up(holding)), until=float("-inf"), sent=None, closed=True)


def former(granted: int, used: int) -> Holding:
    """What a restarted holder tells for its former self, as its journal proves it: nothing is used any more.

    What was told before is not in the journal, so all of it counts as told (`offered`).
    """
    returned = max(0, granted - used)
    return Holding(granted, used, returned, offered=returned)
