"""The proxy that breaks on demand: what each fault does to the two ends of a connection."""

from __future__ import annotations

import gc
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from entitlement_sidecar.testing.fault_proxy import FaultProxy
from support.waiting import until

PATIENCE = 30.0
"""Seconds after which a peer that should have said something is given up."""


class Echo:
    """A server that sends back what it gets, and remembers it."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.heard = bytearray()
        self._open: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._serve)]
        self._threads[0].start()

    def _serve(self) -> None:
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            self._open.append(peer)
            self._threads.append(threading.Thread(target=self._answer, args=(peer,)))
            self._threads[-1].start()

    def _answer(self, peer: socket.socket) -> None:
        with peer:
            try:
                while data := peer.recv(4096):
                    self.heard += data
                    peer.sendall(data)
            except OSError:
                return

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(PATIENCE)


@pytest.fixture
def echo() -> Iterator[Echo]:
    """A server behind the proxy; it outlives the proxy's connections."""
    server = Echo()
    yield server
    server.close()


@pytest.fixture
def proxy(echo: Echo) -> Iterator[FaultProxy]:
    """A healthy proxy before the server."""
    with FaultProxy(echo.port).start() as started:
        yield started


@pytest.fixture
def client(proxy: FaultProxy) -> Iterator[socket.socket]:
    """A connection that has been used."""
    with connected(proxy) as peer:
        assert exchanged(peer, b"hello") == b"hello"
        yield peer


def connected(proxy: FaultProxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=PATIENCE)


def exchanged(peer: socket.socket, data: bytes) -> bytes:
    peer.sendall(data)
    got = b""
    while len(got) < len(data):
        more = peer.recv(65536)
        if not more:
            break
        got += more
    return got


def is_silent(peer: socket.socket) -> bool:
    """Whether nothing is there to be read, not even an end."""
    peer.settimeout(0.3)
    try:
        peer.recv(1)
    except TimeoutError:
        return True
    finally:
        peer.settimeout(PATIENCE)
    return False


def test_healthy_bytes_arrive_as_they_were_sent(proxy: FaultProxy) -> None:
    """Many bytes, both ways, and the end of one direction is passed on."""
    sent = bytes(range(256)) * 4096
    with connected(proxy) as peer:
        sending = threading.Thread(target=lambda: (peer.sendall(sent), peer.shutdown(socket.SHUT_WR)))
        sending.start()
        got = bytearray()
        while data := peer.recv(65536):
            got += data
        sending.join()
    assert bytes(got) == sent


def test_connections_are_counted(proxy: FaultProxy, client: socket.socket) -> None:
    """Open ones only."""
    with connected(proxy) as second:
        exchanged(second, b"x")
        assert proxy.connections == 2
    until(lambda: proxy.connections == 1, "the closed connection to be forgotten")
    assert exchanged(client, b"still") == b"still"


def test_latency_holds_bytes_back_in_order(proxy: FaultProxy, client: socket.socket, echo: Echo) -> None:
    """What was sent under latency arrives once it is healed, before what was sent after."""
    proxy.latency(3600)
    client.sendall(b"late ")
    assert is_silent(client)
    assert bytes(echo.heard) == b"hello"
    proxy.heal()
    assert exchanged(client, b"later")[:5] == b"late "
    until(lambda: bytes(echo.heard) == b"hellolate later", "both to arrive")


def test_a_short_latency_passes(proxy: FaultProxy, client: socket.socket) -> None:
    """Bytes arrive after it, without being healed."""
    proxy.latency(0.05)
    assert exchanged(client, b"slowly") == b"slowly"


def test_bandwidth_lets_a_little_through(proxy: FaultProxy, client: socket.socket, echo: Echo) -> None:
    """The first bytes arrive while most are under way; healed, the rest follows and nothing is lost."""
    proxy.bandwidth(100)
    sent = b"y" * 50_000
    client.sendall(sent)
    until(lambda: len(echo.heard) > len(b"hello"), "the first bytes")
    assert len(echo.heard) < len(sent) / 2
    proxy.heal()
    until(lambda: len(echo.heard) == len(b"hello") + len(sent), "the rest")


def test_bandwidth_of_nothing_is_refused(proxy: FaultProxy) -> None:
    """The message names the fault that was meant."""
    with pytest.raises(ValueError, match=r"bytes_per_second is 0: give 1 or more, or use black_hole\(\)"):
        proxy.bandwidth(0)


def test_a_black_hole_takes_and_never_gives(proxy: FaultProxy, client: socket.socket, echo: Echo) -> None:
    """Neither end notices, on a connection there was and on a new one."""
    proxy.black_hole()
    client.sendall(b"lost")
    with connected(proxy) as fresh:
        fresh.sendall(b"lost too")
        assert is_silent(fresh)
        assert is_silent(client)
        assert bytes(echo.heard) == b"hello"


def test_healing_a_black_hole_cuts_what_lost_bytes(proxy: FaultProxy, client: socket.socket) -> None:
    """Both old and new connections are reset; the next one works."""
    proxy.black_hole()
    with connected(proxy) as hung:
        until(lambda: proxy.connections == 2, "the second connection to be accepted")
        proxy.heal()
        for peer in (client, hung):
            with pytest.raises(ConnectionResetError):
                peer.recv(1)
    with connected(proxy) as fresh:
        assert exchanged(fresh, b"again") == b"again"


def test_reset_cuts_connections_and_not_the_next(proxy: FaultProxy, client: socket.socket) -> None:
    """The peer sees a reset, no orderly end."""
    proxy.reset()
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    with connected(proxy) as fresh:
        assert exchanged(fresh, b"again") == b"again"


def test_refused_connections_keep_the_port(proxy: FaultProxy, client: socket.socket) -> None:
    """Existing ones are reset, new ones refused; healed, the same port answers, several times."""
    for peer in (client, None):
        proxy.refuse()
        if peer is not None:
            with pytest.raises(ConnectionResetError):
                peer.recv(1)
        with pytest.raises(ConnectionRefusedError):
            connected(proxy)
        proxy.heal()
        with connected(proxy) as fresh:
            assert exchanged(fresh, b"back") == b"back"


def test_a_server_that_is_away_resets(free_port: int) -> None:
    """Who connects to a proxy whose server is not there is cut, and the proxy lives."""
    with FaultProxy(free_port).start() as proxy:
        for _ in range(2):
            # It may be cut so soon that connecting has not returned.
            with pytest.raises(ConnectionResetError), connected(proxy) as peer:
                peer.recv(1)


def test_closing_while_they_come(echo: Echo) -> None:
    """Whoever connects while the proxy closes is reset or refused, and nothing stays open."""
    for _ in range(2):
        close_while_they_come(echo.port)


def close_while_they_come(port: int) -> None:
    """A connection that is left open is a warning of the collector, and warnings fail tests."""
    proxy = FaultProxy(port).start()
    coming = threading.Thread(target=connect_until_refused, args=(proxy,))
    coming.start()
    until(lambda: proxy.connections > 0, "somebody to be connected")
    proxy.close()
    coming.join(PATIENCE)
    gc.collect()
    assert not coming.is_alive()


def connect_until_refused(proxy: FaultProxy) -> None:
    """Keeps what it has connected open, so that every end is the proxy's doing."""
    with ExitStack() as open_ones:
        while True:
            try:
                open_ones.enter_context(connected(proxy))
            except ConnectionResetError:
                continue
            except ConnectionRefusedError:
                return


def test_closing_resets_and_may_be_repeated(echo: Echo) -> None:
    """Connections end, the port is free, a proxy that was never started closes too."""
    proxy = FaultProxy(echo.port).start()
    with connected(proxy) as peer:
        assert exchanged(peer, b"x") == b"x"
        proxy.close()
        with pytest.raises(ConnectionResetError):
            peer.recv(1)
    proxy.close()
    with pytest.raises(ConnectionRefusedError):
        connected(proxy)
    FaultProxy(echo.port).close()


def test_another_target_takes_the_next_connections(proxy: FaultProxy, client: socket.socket) -> None:
    """A failover: what is open stays where it is until it is cut."""
    second = Echo()
    try:
        proxy.target_port = second.port
        assert exchanged(client, b"old") == b"old"
        with connected(proxy) as fresh:
            assert exchanged(fresh, b"new") == b"new"
        assert bytes(second.heard) == b"new"
    finally:
        second.close()
