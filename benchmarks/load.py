"""Asks a server: as fast as it answers with so many calls in flight, or at a fixed rate."""

from __future__ import annotations

import itertools
import selectors
import time
from collections.abc import Iterator, Sequence

import msgspec

from benchmarks.http2 import Connection, encode_call

WARM_UP = 0.5
"""Seconds that are asked and not counted."""

_PATIENCE = 10.0
"""Seconds without any answer after which a run is given up."""

_Encoded = tuple[bytes, tuple[bytes, ...], int]


class Result(msgspec.Struct, frozen=True):
    """What was measured. Rates per second, times in microseconds; `client_busy` is the share of its core."""

    rate: float
    p50: float
    p99: float
    calls: int
    failed: int
    client_busy: float


class _Tally:
    """Counts the calls that ended inside the measured time."""

    def __init__(self) -> None:
        self.latencies: list[float] = []
        self.failed = 0
        self.counting = False

    def done(self, sent: float, answered: bool) -> None:  # noqa: FBT001 - called by position, per call
        """One call ended."""
        if not self.counting:
            return
        if answered:
            self.latencies.append(time.perf_counter() - sent)
        else:
            self.failed += 1

    def result(self, seconds: float, busy: float) -> Result:
        """The numbers of a run."""
        ordered = sorted(self.latencies)
        return Result(
            rate=len(ordered) / seconds,
            p50=quantile(ordered, 0.50) * 1e6,
            p99=quantile(ordered, 0.99) * 1e6,
            calls=len(ordered),
            failed=self.failed,
            client_busy=busy,
        )


def quantile(ordered: Sequence[float], share: float) -> float:
    """The value that a share of the ordered ones does not pass; not a number when there are none."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else float("nan")


class Target(msgspec.Struct, frozen=True):
    """What is asked where: each body in turn, from the beginning again after the last."""

    address: tuple[str, int]
    path: str
    bodies: Sequence[bytes]


def closed_loop(target: Target, *, connections: int, depth: int, seconds: float) -> Result:
    """Keeps `depth` calls in flight on each connection."""
    tally = _Tally()
    calls = _endless(target)
    peers = [Connection(target.address, target.path, tally.done) for _ in range(connections)]
    try:
        with selectors.DefaultSelector() as selector:
            for peer in peers:
                selector.register(peer, selectors.EVENT_READ)
            _keep_full(selector, peers, calls, depth, WARM_UP)
            tally.counting = True
            began, cpu = time.perf_counter(), time.process_time()
            _keep_full(selector, peers, calls, depth, seconds)
            took = time.perf_counter() - began
            return tally.result(took, (time.process_time() - cpu) / took)
    finally:
        for peer in peers:
            peer.close()


def _keep_full(
    selector: selectors.BaseSelector,
    peers: list[Connection],
    calls: Iterator[_Encoded],
    depth: int,
    seconds: float,
) -> None:
    for peer in peers:
        _fill(peer, calls, depth)
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        queued = any(peer.wants_write for peer in peers)
        # With one call in flight it polls: its own wake-up would be part of every latency.
        ready = selector.select(0 if queued or depth == 1 else _PATIENCE)
        if not (ready or queued or depth == 1):
            raise ConnectionError(f"no answer for {_PATIENCE:.0f} s")
        for key, _ in ready:
            key.fileobj.receive()  # type: ignore[union-attr]
            _fill(key.fileobj, calls, depth)  # type: ignore[arg-type]
        for peer in peers:
            peer.flush()


def _fill(peer: Connection, calls: Iterator[_Encoded], depth: int) -> None:
    now = time.perf_counter()
    while peer.in_flight < depth and peer.call(next(calls), now):
        pass
    peer.flush()


class _Paced:
    """Calls that are sent at set times, whether or not earlier ones were answered."""

    def __init__(self, target: Target, rate: float, connections: int) -> None:
        self.tally = _Tally()
        self._pause = 1 / rate
        self._calls = _endless(target)
        self._peers = [Connection(target.address, target.path, self.tally.done) for _ in range(connections)]
        self._turns = itertools.cycle(self._peers)
        self._due = time.perf_counter()

    def turn(self, now: float) -> None:
        """Sends what is due, and takes what was answered."""
        # What the server does not take yet is sent later, and late from its set time.
        while self._due <= now and next(self._turns).call(next(self._calls), self._due):
            self._due += self._pause
        for peer in self._peers:
            peer.flush()
            peer.receive()

    def close(self) -> None:
        """Ends its connections."""
        for peer in self._peers:
            peer.close()


def fixed_rate(target: Target, *, rate: float, connections: int, seconds: float) -> Result:
    """Sends at set times, whether or not earlier calls have been answered; latency counts from the set time.

    It polls instead of sleeping: its own wake-ups would be part of what is measured.
    """
    [result] = fixed_rates([(target, rate, connections)], seconds)
    return result


def fixed_rates(calls: Sequence[tuple[Target, float, int]], seconds: float) -> list[Result]:
    """As `fixed_rate`, for several kinds of calls at once: what, how many a second, on how many links."""
    paced = [_Paced(*one) for one in calls]
    began = time.perf_counter()
    try:
        while (now := time.perf_counter()) < began + WARM_UP + seconds:
            for one in paced:
                one.tally.counting = now > began + WARM_UP
                one.turn(now)
        return [one.tally.result(seconds, 1.0) for one in paced]
    finally:
        for one in paced:
            one.close()


def _endless(target: Target) -> Iterator[_Encoded]:
    return itertools.cycle([encode_call(body) for body in target.bodies])
