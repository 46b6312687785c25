"""Read the whole stream EVENTS as fast as one core goes: a blocking reader of NATS frames, for passes over the log.

Source: NATS client protocol (INFO, CONNECT, SUB, PUB, MSG, HMSG, PING; TLS after INFO) and the JetStream pull API.
"""

import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Self
from urllib.parse import unquote, urlsplit
from uuid import uuid4

import msgspec

from ridges.chassis.jetstream.connection import Place
from ridges.chassis.jetstream.streams import EPOCH, NS_PER_S
from ridges.chassis.ports import EventRefused, EventStoreUnavailable
from ridges.contracts.subjects import EVENTS_STREAM

PULL = 4_000
PULLS_IN_FLIGHT = 3
PULL_EXPIRES_S = 30
SILENCE_S = 5.0
PATIENCE_S = 30.0
RETRY_PAUSE_S = 0.3
RECEIVE_BYTES = 1 << 20
INACTIVE_S = 60

RawEvent = tuple[int, bytes, bytes, bytes]
"""Position, subject, header block (``NATS/1.0 …``, may be empty), content."""


def last_position(place: Place) -> int:
    """Position of the newest event; 0 for an empty log. Raises like ``raw_events``."""
    with _Wire(place) as wire:
        return int(wire.api(f"STREAM.INFO.{EVENTS_STREAM}", {})["state"]["last_seq"])


def raw_events(place: Place, after: int, until: int) -> Iterator[list[RawEvent]]:
    """The messages after a position up to another one, in order, in chunks as they arrive; survives reconnections.

    Raises:
        EventStoreUnavailable: nothing came for half a minute.
        EventRefused: this user may not read the log, it was replaced by another one meanwhile, or the URL is for
            something else than NATS over TCP or TLS.
    """
    position, give_up = after, time.monotonic() + PATIENCE_S
    epoch = place.log_epoch
    while position < until:
        try:
            with _Wire(place) as wire:
                found = wire.epoch()
                if epoch not in (None, found):
                    raise EventRefused(
                        f"the log at {place.url} has the epoch {found} instead of {epoch}: it is another one, or was "
                        f"replaced while it was read. What was read up to position {position} means nothing there"
                    )
                epoch = found
                for chunk in wire.follow(position + 1, until):
                    if chunk:
                        position = chunk[-1][0]
                        wanted = chunk if position <= until else [event for event in chunk if event[0] <= until]
                        if wanted:
                            yield wanted
                        give_up = time.monotonic() + PATIENCE_S  # what the reader does with a chunk takes its time
        except OSError as error:
            if time.monotonic() > give_up:
                raise EventStoreUnavailable(
                    f"reading the log stopped after position {position}: {error or type(error).__name__}"
                ) from error
            time.sleep(RETRY_PAUSE_S)
        else:
            if position < until and time.monotonic() > give_up:
                raise EventStoreUnavailable(
                    f"the log ends at position {position}, before {until}: nats-server cannot read what follows"
                )


class _Lost(OSError):
    """The consumer is not to be trusted any more: begin a new one."""


class _Wire:
    """One connection."""

    def __init__(self, place: Place) -> None:
        parts = urlsplit(place.url.split(",")[0].strip())
        if parts.scheme not in ("nats", "tls", ""):
            raise EventRefused(f"the whole log is read over nats:// or tls://, not {parts.scheme}://: name such a URL")
        self._tls = parts.scheme == "tls"
        self._place, self._user = place, place.user or (unquote(parts.username) if parts.username else None)
        self._password = place.password or (unquote(parts.password) if parts.password else None)
        self._address = (parts.hostname or "127.0.0.1", parts.port or 4222)
        self._inbox = f"{place.inbox_prefix}.{uuid4().hex}".encode()
        self._buffer = bytearray()
        self._requests = 0

    def __enter__(self) -> Self:
        self._socket = socket.create_connection(self._address, SILENCE_S)
        try:
            self._greet()
        except BaseException:
            self._socket.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def _greet(self) -> None:
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * RECEIVE_BYTES)
        told = msgspec.json.decode(self._line().removeprefix(b"INFO "))
        if self._tls or told.get("tls_required"):
            self._encrypt()
        hello: dict[str, Any] = {
            "verbose": False,
            "pedantic": False,
            "headers": True,
            "no_responders": True,
            "lang": "python",
            "version": "1",
            "name": f"{self._place.name}-bulk",
        }
        if self._user is not None:
            hello |= {"user": self._user, "pass": self._password or ""}
        self._socket.sendall(b"CONNECT %s\r\nSUB %s.> 1\r\nPING\r\n" % (msgspec.json.encode(hello), self._inbox))
        while (line := self._line()) != b"PONG":
            self._refuse(line)

    def _encrypt(self) -> None:
        """Like the services' own connections: trusts what the system trusts, and ``SSL_CERT_FILE``."""
        host = self._address[0]
        try:
            self._socket = ssl.create_default_context().wrap_socket(self._socket, server_hostname=host)
        except ssl.SSLCertVerificationError as error:
            raise EventRefused(
                f"the certificate of {host} is not trusted ({error.verify_message}); "
                "name the file of its authority in SSL_CERT_FILE"
            ) from error

    def api(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """The answer of the JetStream API. Raises EventRefused when it is an error."""
        self._requests += 1
        self._publish(f"$JS.API.{path}".encode(), self._inbox + b".%d" % self._requests, msgspec.json.encode(body))
        while True:
            line = self._line()
            kind = line[:4]
            if kind == b"PING":
                self._socket.sendall(b"PONG\r\n")
            elif kind in (b"MSG ", b"HMSG"):
                content = self._take(int(line.rsplit(b" ", 1)[1]))
                if kind == b"HMSG":
                    raise _Lost(f"no answer to {path}: {content[:60]!r}")
                answer: dict[str, Any] = msgspec.json.decode(content)
                if "error" in answer:
                    if answer["error"].get("code") in (404, 503):
                        raise _Lost(f"{path}: {answer['error'].get('description')}")
                    raise EventRefused(f"{path}: {answer['error'].get('description')}")
                return answer
            else:
                self._refuse(line)

    def epoch(self) -> str:
        """Of the log; empty when it has none."""
        config = self.api(f"STREAM.INFO.{EVENTS_STREAM}", {})["config"]
        return str((config.get("metadata") or {}).get(EPOCH, ""))

    def follow(self, first: int, until: int) -> Iterator[list[RawEvent]]:
        """From a position on to ``until`` at least; the last chunk may go beyond it."""
        name = f"bulk-{uuid4().hex}"
        config = {
            "name": name,
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": first,
            "ack_policy": "none",
            "mem_storage": True,
            "num_replicas": 1,
            "inactive_threshold": INACTIVE_S * NS_PER_S,
        }
        created = self.api(f"CONSUMER.CREATE.{EVENTS_STREAM}.{name}", {"stream_name": EVENTS_STREAM, "config": config})
        pull_subject = f"$JS.API.CONSUMER.MSG.NEXT.{EVENTS_STREAM}.{name}".encode()
        body = msgspec.json.encode({"batch": PULL, "expires": PULL_EXPIRES_S * NS_PER_S})
        try:
            if not created.get("num_pending"):
                return
            for _ in range(PULLS_IN_FLIGHT):
                self._publish(pull_subject, self._inbox + b".p", body)
            delivered = since_pull = 0
            position = first - 1
            while position < until:
                chunk, delivered = self._chunk(delivered)
                since_pull += len(chunk)
                while since_pull >= PULL:
                    since_pull -= PULL
                    self._publish(pull_subject, self._inbox + b".p", body)
                if chunk:
                    position = chunk[-1][0]
                    yield chunk
        finally:
            with suppress(OSError):
                self._publish(f"$JS.API.CONSUMER.DELETE.{EVENTS_STREAM}.{name}".encode(), self._inbox + b".d", b"")

    def _chunk(self, delivered: int) -> tuple[list[RawEvent], int]:
        """All whole messages in what arrives next; the count of deliveries after them."""
        received = self._socket.recv(RECEIVE_BYTES)
        if not received:
            raise _Lost("the server closed the connection")
        buffer = bytes(self._buffer) + received if self._buffer else received
        found: list[RawEvent] = []
        at, end = 0, len(buffer)
        find, append = buffer.find, found.append
        while True:
            line_end = find(b"\r\n", at)
            if line_end < 0:
                break
            line = buffer[at:line_end]
            start = line_end + 2
            if line[:4] == b"HMSG":
                words = line.split(b" ")
                if len(words) == 5:  # without a reply subject the server itself speaks, of a consumer that is gone
                    raise _Lost(f"the consumer ended: {buffer[start : start + int(words[3])][:80]!r}")
                subject, reply = words[1], words[3]
                body, stop = start + int(words[4]), start + int(words[5])
            elif line[:4] == b"MSG ":
                words = line.split(b" ")
                subject, reply = words[1], words[3]
                body, stop = start, start + int(words[-1])
            else:
                self._other(line)
                at = start
                continue
            if stop + 2 > end:
                break
            at = stop + 2
            tokens = reply.split(b".")
            if tokens[0] != b"$JS":
                raise _Lost(f"the consumer ended: {buffer[start:body][:80]!r}")
            shift = 0 if len(tokens) == 9 else 2
            delivered += 1
            if int(tokens[6 + shift]) != delivered:
                raise _Lost("a delivery was lost")
            append((int(tokens[5 + shift]), subject, buffer[start:body], buffer[body:stop]))
        self._buffer = bytearray(buffer[at:])
        return found, delivered

    def _publish(self, subject: bytes, reply: bytes, body: bytes) -> None:
        self._socket.sendall(b"PUB %s %s %d\r\n%s\r\n" % (subject, reply, len(body), body))

    def _line(self) -> bytes:
        while (end := self._buffer.find(b"\r\n")) < 0:
            self._receive()
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 2]
        return line

    def _take(self, size: int) -> bytes:
        while len(self._buffer) < size + 2:
            self._receive()
        content = bytes(self._buffer[:size])
        del self._buffer[: size + 2]
        return content

    def _receive(self) -> None:
        received = self._socket.recv(RECEIVE_BYTES)
        if not received:
            raise _Lost("the server closed the connection")
        self._buffer += received

    def _other(self, line: bytes) -> None:
        if line == b"PING":
            self._socket.sendall(b"PONG\r\n")
        else:
            self._refuse(line)

    def _refuse(self, line: bytes) -> None:
        if line.startswith(b"-ERR"):
            told = line[5:].decode("utf-8", "replace")
            if "Authorization" in told or "Permissions" in told:
                raise EventRefused(f"the NATS server refuses the reader {self._user!r}: {told}")
            raise _Lost(told)
