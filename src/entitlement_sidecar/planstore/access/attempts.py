"""How often one address may come with a wrong token: a token bucket for each, in a bounded table."""

from __future__ import annotations

import ipaddress
import threading
from collections import OrderedDict

from entitlement_sidecar.domain.clock import Clock

BURST = 10
"""Failures that an address may have at once; then one a second."""

PER_SECOND = 1.0
MAX_ADDRESSES = 10_000
"""Addresses that are remembered; of more, those that failed longest ago are forgotten."""

_IPV6_SITE = 64


class FailedAttempts:
    """Counts failures by address. Thread-safe. Who succeeds is never slowed down."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        # What is left, and when that was so; the most recent last.
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def failed(self, address: str) -> float:
        """Counts one failure; seconds until the next may come, 0 where it may come at once."""
        key, now = _site(address), self._clock.monotonic()
        with self._lock:
            left, at = self._left.pop(key, (float(BURST), now))
            left = min(float(BURST), left + (now - at) * PER_SECOND)
            taken = left - 1.0 if left >= 1.0 else left
            self._left[key] = (taken, now)
            if len(self._left) > MAX_ADDRESSES:
                self._left.popitem(last=False)
        return 0.0 if taken < left else (1.0 - left) / PER_SECOND

    def __len__(self) -> int:
        return len(self._left)


def _site(address: str) -> str:
    """Who has an IPv6 address has 2^64 of them."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address[:64]
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((parsed.packed, _IPV6_SITE), strict=False))
