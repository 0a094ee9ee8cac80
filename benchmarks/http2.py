"""Just enough HTTP/2 to ask unary gRPC calls as fast as one interpreter can, with another body in each.

h2load repeats one body, so a server that remembers answers by request would be measured by its memory. Frames
are encoded before the run; while it runs only stream ids are written. Responses are walked frame by frame: a
stream that ends without a message failed, because gRPC sends errors without one.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RESET, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
_END_STREAM, _ACK, _END_HEADERS = 1, 1, 4
_LARGEST_WINDOW = 2**31 - 1
_DEFAULT_WINDOW = 65535
_LARGEST_FRAME = 16384
_FRAME = struct.Struct(">IBI")
_SETTING = struct.Struct(">HI")
_MAX_STREAMS = 3
_STREAM_ID = struct.Struct(">I")
_RENEW_AFTER = 2**30

Done = Callable[[float, bool], None]
"""Called for each ended call: when it was sent, and whether it got a message."""


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return _FRAME.pack(len(payload) << 8 | kind, flags, stream) + payload


def _text(value: str) -> bytes:
    raw = value.encode()
    if len(raw) > 126:
        raise ValueError(f"header values have at most 126 bytes here: {value!r}")
    return bytes([len(raw)]) + raw


def encode_call(message: bytes) -> tuple[bytes, tuple[bytes, ...], int]:
    """A call's frames without their stream ids: what comes before and between them, and the window used."""
    body = b"\0" + len(message).to_bytes(4, "big") + message
    chunks = [body[at : at + _LARGEST_FRAME] for at in range(0, len(body), _LARGEST_FRAME)]
    # Later calls of a connection name their headers by index: POST, http, then the four of the first call.
    headers = bytes([0x83, 0x86, 0x80 | 65, 0x80 | 64, 0x80 | 63, 0x80 | 62])
    starts = [_FRAME.pack(len(headers) << 8 | _HEADERS, _END_HEADERS, 0)[:5]]
    middles = [headers]
    for number, chunk in enumerate(chunks):
        last = _END_STREAM if number == len(chunks) - 1 else 0
        middles[-1] += _FRAME.pack(len(chunk) << 8 | _DATA, last, 0)[:5]
        middles.append(chunk)
    return starts[0], tuple(middles), len(body)


class Connection:
    """One connection. Not thread-safe; the caller says when it is readable."""

    def __init__(self, address: tuple[str, int], path: str, done: Done) -> None:
        self._socket = socket.create_connection(address)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._done = done
        self._stream = 1
        self._credit = _DEFAULT_WINDOW
        self._max_streams = _LARGEST_WINDOW
        self._consumed = 0
        self._out: list[bytes] = []
        self._rest = b""
        self._sent: dict[int, float] = {}
        self._answered: set[int] = set()
        self._first_headers = (
            b"\x83\x86"
            + b"".join(
                # Each enters the dynamic table, the last one at index 62.
                (b"\x44" + _text(path), b"\x41" + _text("localhost"), b"\x5f" + _text("application/grpc"))
            )
            + b"\x40"
            + _text("te")
            + _text("trailers")
        )
        window = struct.pack(">HIHI", 2, 0, 4, _LARGEST_WINDOW)
        grow = struct.pack(">I", _LARGEST_WINDOW - _DEFAULT_WINDOW)
        self._socket.sendall(_PREFACE + _frame(_SETTINGS, 0, 0, window) + _frame(_WINDOW_UPDATE, 0, 0, grow))
        self._socket.setblocking(False)

    def fileno(self) -> int:
        """For selectors."""
        return self._socket.fileno()

    @property
    def in_flight(self) -> int:
        """Calls sent and not ended."""
        return len(self._sent)

    @property
    def wants_write(self) -> bool:
        """Whether bytes wait for the socket."""
        return bool(self._out)

    def close(self) -> None:
        """Ends the connection."""
        self._socket.close()

    def call(self, encoded: tuple[bytes, tuple[bytes, ...], int], now: float) -> bool:
        """Queues a call; false when the server takes no more for now."""
        start, middles, size = encoded
        if size > self._credit or len(self._sent) >= self._max_streams:
            return False
        self._credit -= size
        stream, self._stream = self._stream, self._stream + 2
        self._sent[stream] = now
        stream_id = _STREAM_ID.pack(stream)
        if stream == 1:
            start = _FRAME.pack(len(self._first_headers) << 8 | _HEADERS, _END_HEADERS, 0)[:5]
            middles = (self._first_headers + middles[0][6:], *middles[1:])
        self._out.append(start)
        for middle in middles:
            self._out += (stream_id, middle)
        return True

    def flush(self) -> None:
        """Writes what is queued, as far as the socket takes it."""
        if not self._out:
            return
        data = b"".join(self._out)
        try:
            written = self._socket.send(data)
        except BlockingIOError:
            written = 0
        self._out = [data[written:]] if written < len(data) else []

    def receive(self) -> None:
        """Reads what is there."""
        try:
            received = self._socket.recv(1 << 20)
        except BlockingIOError:
            return
        if not received:
            raise ConnectionError(f"the server closed the connection with {self.in_flight} calls in flight")
        self._rest = self._walk(self._rest + received)

    def _walk(self, data: bytes) -> bytes:
        """Handles each whole frame; returns what is left."""
        position, end, unpack = 0, len(data), _FRAME.unpack_from
        while end - position >= 9:
            length_kind, flags, stream = unpack(data, position)
            following = position + 9 + (length_kind >> 8)
            if following > end:
                break
            kind = length_kind & 255
            if kind == _DATA:
                self._answered.add(stream)
                self._consumed += following - position
            elif kind == _HEADERS:
                if flags & _END_STREAM:
                    self._end(stream)
            else:
                self._control(kind, flags, stream, data[position + 9 : following])
            position = following
        self._renew_window()
        return data[position:]

    def _end(self, stream: int) -> None:
        answered = stream in self._answered
        self._answered.discard(stream)
        self._done(self._sent.pop(stream), answered)

    def _control(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == _SETTINGS and not flags & _ACK:
            for number, value in _SETTING.iter_unpack(payload):
                if number == _MAX_STREAMS:
                    self._max_streams = value
            self._out.append(_frame(_SETTINGS, _ACK, 0, b""))
        elif kind == _PING and not flags & _ACK:
            self._out.append(_frame(_PING, _ACK, 0, payload))
        elif kind == _WINDOW_UPDATE and stream == 0:
            self._credit += int.from_bytes(payload, "big")
        elif kind == _RESET and stream in self._sent:
            self._answered.discard(stream)
            self._done(self._sent.pop(stream), False)
        elif kind == _GOAWAY:
            raise ConnectionError(f"the server is going away: {os.fsdecode(payload[8:])}")

    def _renew_window(self) -> None:
        if self._consumed > _RENEW_AFTER:
            self._out.append(_frame(_WINDOW_UPDATE, 0, 0, struct.pack(">I", self._consumed)))
            self._consumed = 0
