"""One connection of our own to the log's server, with the least between a socket and the messages of a consumer.

For what takes in the whole log: passes over it (``bulk``) and the live projection (``following``).

Source: NATS client protocol (INFO, CONNECT, SUB, PUB, MSG, HMSG, PING; TLS after INFO) and the JetStream pull API.
"""

import socket
import ssl
from contextlib import suppress
from typing import Any, Self
from urllib.parse import unquote, urlsplit
from uuid import uuid4

import msgspec

from ridges.chassis.jetstream.place import Place
from ridges.chassis.jetstream.streams import EPOCH, NS_PER_S
from ridges.chassis.ports import EventRefused
from ridges.contracts.subjects import EVENTS_STREAM

SILENCE_S = 5.0
RECEIVE_BYTES = 1 << 20
INACTIVE_S = 60

RawEvent = tuple[int, bytes, bytes, bytes]
"""Position, subject, header block (``NATS/1.0 …``, may be empty), content."""


class Lost(OSError):
    """The consumer is not to be trusted any more: begin a new one."""


class Wire:
    """One connection."""

    def __init__(self, place: Place, server: str | None = None) -> None:
        """To the first of the place's servers, or to the one of this URL."""
        parts = urlsplit(place.url.split(",")[0].strip())
        if parts.scheme not in ("nats", "tls", ""):
            raise EventRefused(f"the whole log is read over nats:// or tls://, not {parts.scheme}://: name such a URL")
        self._tls = parts.scheme == "tls"
        self._place, self._user = place, place.user or (unquote(parts.username) if parts.username else None)
        self._password = place.password or (unquote(parts.password) if parts.password else None)
        if server is not None:
            parts = urlsplit(server)
        self._address = (parts.hostname or "127.0.0.1", parts.port or 4222)
        named = [urlsplit(url.strip()).hostname for url in place.url.split(",")]
        self._certified = self._address[0] if self._address[0] in named else named[0] or self._address[0]
        """Whose certificate it must have: servers of a cluster tell of each other by addresses that stand in none."""
        self._inbox = f"{place.inbox_prefix}.{uuid4().hex}".encode()
        self._buffer = bytearray()
        self._requests = 0

    def __enter__(self) -> Self:
        self.socket = socket.create_connection(self._address, SILENCE_S)
        try:
            self._greet()
        except BaseException:
            self.socket.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.socket.close()

    def _greet(self) -> None:
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * RECEIVE_BYTES)
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
            "name": f"{self._place.name}-reader",
        }
        if self._user is not None:
            hello |= {"user": self._user, "pass": self._password or ""}
        self.socket.sendall(b"CONNECT %s\r\nSUB %s.> 1\r\nPING\r\n" % (msgspec.json.encode(hello), self._inbox))
        while (line := self._line()) != b"PONG":
            self._refuse(line)

    def _encrypt(self) -> None:
        """Like the services' own connections: trusts what the system trusts, and ``SSL_CERT_FILE``."""
        host = self._certified
        try:
            self.socket = ssl.create_default_context().wrap_socket(self.socket, server_hostname=host)
        except ssl.SSLCertVerificationError as error:
            raise EventRefused(
                f"the certificate of {host} is not trusted ({error.verify_message}); "
                "name the file of its authority in SSL_CERT_FILE"
            ) from error

    def api(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """The answer of the JetStream API. Raises EventRefused when it is an error."""
        self._requests += 1
        self.publish(f"$JS.API.{path}", b".%d" % self._requests, msgspec.json.encode(body))
        while True:
            line = self._line()
            kind = line[:4]
            if kind == b"PING":
                self.socket.sendall(b"PONG\r\n")
            elif kind in (b"MSG ", b"HMSG"):
                content = self._take(int(line.rsplit(b" ", 1)[1]))
                if kind == b"HMSG":
                    raise Lost(f"no answer to {path}: {content[:60]!r}")
                answer: dict[str, Any] = msgspec.json.decode(content)
                if "error" in answer:
                    if answer["error"].get("code") in (404, 503):
                        raise Lost(f"{path}: {answer['error'].get('description')}")
                    raise EventRefused(f"{path}: {answer['error'].get('description')}")
                return answer
            else:
                self._refuse(line)

    def consume(self, kind: str, first: int) -> "WireConsumer":
        """A consumer of the whole log from a position on. It brings what is asked for by ``pull``."""
        name = f"{kind}-{uuid4().hex}"
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
        left, self._buffer = bytes(self._buffer), bytearray()
        return WireConsumer(self, name, int(created.get("num_pending", 0)), left)

    def epoch(self) -> str:
        """Of the log; empty when it has none."""
        config = self.api(f"STREAM.INFO.{EVENTS_STREAM}", {})["config"]
        return str((config.get("metadata") or {}).get(EPOCH, ""))

    def received(self, at_most: int = RECEIVE_BYTES) -> bytes:
        """What comes next, at least a byte. Raises OSError when the connection is lost or silent for too long."""
        received = self.socket.recv(at_most)
        if not received:
            raise Lost("the server closed the connection")
        return received

    def publish(self, subject: str, tag: bytes, body: bytes) -> None:
        """A request; the tag ends the subject of its answer."""
        reply = self._inbox + tag
        self.socket.sendall(b"PUB %s %s %d\r\n%s\r\n" % (subject.encode(), reply, len(body), body))

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
        self._buffer += self.received()

    def other(self, line: bytes) -> None:
        """Answer a line that brings no message. Raises Lost or EventRefused when the server complains."""
        if line == b"PING":
            self.socket.sendall(b"PONG\r\n")
        else:
            self._refuse(line)

    def _refuse(self, line: bytes) -> None:
        if line.startswith(b"-ERR"):
            told = line[5:].decode("utf-8", "replace")
            if "Authorization" in told or "Permissions" in told:
                raise EventRefused(f"the NATS server refuses the reader {self._user!r}: {told}")
            raise Lost(told)


class WireConsumer:
    """An ephemeral consumer of the whole log, see ``Wire.consume``."""

    def __init__(self, wire: Wire, name: str, pending: int, received: bytes) -> None:
        self._wire, self._name, self._left = wire, name, received
        self._delivered = 0
        self.pending = pending
        """How many messages waited when it was made."""

    def pull(self, request: dict[str, Any]) -> None:
        """Ask for messages, see "MSG.NEXT" of the JetStream API."""
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{EVENTS_STREAM}.{self._name}"
        self._wire.publish(subject, b".p", msgspec.json.encode(request))

    def arrived(self, received: bytes) -> tuple[list[RawEvent], list[bytes]]:
        """All whole messages with what was just received, and what the server itself told, as header blocks.

        Raises:
            Lost: a delivery is missing, or the server complains.
        """
        buffer = self._left + received if self._left else received
        found: list[RawEvent] = []
        told: list[bytes] = []
        delivered = self._delivered
        at, end = 0, len(buffer)
        find, append = buffer.find, found.append
        while True:
            line_end = find(b"\r\n", at)
            if line_end < 0:
                break
            words = buffer[at:line_end].split(b" ")
            start = line_end + 2
            if words[0] == b"HMSG":
                body, stop = start + int(words[-2]), start + int(words[-1])
            elif words[0] == b"MSG":
                body, stop = start, start + int(words[-1])
            else:
                self._wire.other(buffer[at:line_end])
                at = start
                continue
            if stop + 2 > end:
                break
            at = stop + 2
            tokens = words[3].split(b".")
            if tokens[0] != b"$JS":  # no reply subject of a message: the server itself speaks
                told.append(buffer[start:body])
                continue
            shift = 0 if len(tokens) == 9 else 2
            delivered += 1
            if int(tokens[6 + shift]) != delivered:
                raise Lost("a delivery was lost")
            append((int(tokens[5 + shift]), words[1], buffer[start:body], buffer[body:stop]))
        self._left, self._delivered = buffer[at:], delivered
        return found, told

    def end(self) -> None:
        """The server may forget it."""
        with suppress(OSError):
            self._wire.publish(f"$JS.API.CONSUMER.DELETE.{EVENTS_STREAM}.{self._name}", b".d", b"")
