"""A NATS server as its administrator, and the messages of its streams."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.errors import NoRespondersError
from nats.js.errors import APIError, NotFoundError

from ridges.chassis.jetstream.bulk import RawEvent, raw_events
from ridges.chassis.jetstream.client import parsed_headers
from ridges.chassis.jetstream.connection import read_reply
from ridges.chassis.jetstream.denials import Denials
from ridges.chassis.jetstream.place import Place
from ridges.chassis.moving.ports import CannotMove, LogEvent
from ridges.chassis.ports import EventRefused, EventStoreUnavailable
from ridges.contracts.subjects import EVENT_ID_HEADER, EVENTS_STREAM

TIMEOUT_S = 30.0
API_TRY_S = 3.0
"""In a cluster nobody answers for a stream whose leader is gone, until there is another one."""
RETRY_PAUSE_S = 0.2
CONNECT_TRIES = 10
_MARK = f"\r\n{EVENT_ID_HEADER}:".encode()


class _Identified(msgspec.Struct):
    id: str


class Stored(msgspec.Struct, frozen=True):
    """A message as it stands in a stream."""

    seq: int
    subject: str
    time: str
    """Of its arrival: ``2026-11-28T01:02:03.123456789Z``."""
    data: bytes = b""
    hdrs: bytes = b""

    @property
    def headers(self) -> dict[str, str]:
        return parsed_headers(self.hdrs)


class _Found(msgspec.Struct, frozen=True):
    message: Stored


class NatsServer:
    """One connection. Every call raises CannotMove when the server does not answer or refuses."""

    def __init__(self, client: Client, denials: Denials, place: Place) -> None:
        self.client, self.place = client, place
        self._denials = denials

    async def api(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """The answer of the JetStream API, asked again while none comes. Raises NotFoundError, too."""
        payload = msgspec.json.encode(body) if body is not None else b""
        try:
            return read_reply(await self.ask_again(f"$JS.API.{path}", payload))
        except NotFoundError:
            raise
        except APIError as error:
            raise CannotMove(f"the NATS server at {self.place.address} refuses {path}: {error.description}") from error

    async def ask_again(self, subject: str, payload: bytes, headers: dict[str, str] | None = None) -> Msg:
        """The answer to what may be asked more than once."""
        deadline = time.monotonic() + TIMEOUT_S
        while True:
            try:
                return await self.ask(subject, payload, headers, API_TRY_S)
            except CannotMove as error:
                if not isinstance(error.__cause__, TimeoutError | NoRespondersError) or time.monotonic() > deadline:
                    raise
                await asyncio.sleep(RETRY_PAUSE_S)

    async def ask(
        self, subject: str, payload: bytes = b"", headers: dict[str, str] | None = None, timeout_s: float = TIMEOUT_S
    ) -> Msg:
        try:
            return await self._denials.heeded(self.client.request(subject, payload, timeout=timeout_s, headers=headers))
        except EventRefused as error:
            raise CannotMove(str(error)) from error
        except (NatsError, TimeoutError, OSError) as error:
            raise CannotMove(
                f"no answer from the NATS server at {self.place.address} ({error or type(error).__name__}); when it is "
                "there again, run the same command: it goes on where it stopped"
            ) from error

    async def stream(self, name: str = EVENTS_STREAM) -> dict[str, Any] | None:
        """Configuration and state of a stream; None when there is none."""
        try:
            return await self.api(f"STREAM.INFO.{name}")
        except NotFoundError:
            return None

    async def events_stream(self) -> dict[str, Any]:
        found = await self.stream()
        if found is None:
            raise CannotMove(f"the NATS server at {self.place.address} has no stream {EVENTS_STREAM}")
        return found

    async def message(self, stream: str, which: dict[str, Any]) -> Stored | None:
        """A message as the leader of the stream keeps it; None when there is none (or no such stream).

        ``which``: as the JetStream API's STREAM.MSG.GET takes it.
        """
        try:
            return msgspec.convert(await self.api(f"STREAM.MSG.GET.{stream}", which), _Found).message
        except NotFoundError:
            return None

    async def change(self, name: str, config: dict[str, Any]) -> None:
        try:
            await self.api(f"STREAM.UPDATE.{name}", config)
        except NotFoundError:
            raise CannotMove(f"the stream {name} at {self.place.address} was deleted meanwhile: given up?") from None


@asynccontextmanager
async def administered(place: Place, mend: str) -> AsyncIterator[NatsServer]:
    """``mend``: which variables name the user that may change streams."""
    client, denials = Client(), Denials(place.user, mend)
    try:
        await client.connect(
            place.url,
            name=place.name,
            user=place.user,
            password=place.password,
            inbox_prefix=place.inbox_prefix,
            error_cb=denials.on_error,
            max_reconnect_attempts=CONNECT_TRIES,
            reconnect_time_wait=1,
            ping_interval=30,
        )
    except EventRefused as error:
        raise CannotMove(str(error)) from error
    except (NatsError, OSError, TimeoutError) as error:
        raise CannotMove(f"no NATS server answers at {place.address} ({error or type(error).__name__})") from error
    try:
        yield NatsServer(client, denials, place)
    finally:
        if not client.is_closed:
            await client.close()


async def log_events(place: Place, after: int, until: int) -> AsyncGenerator[Sequence[LogEvent], None]:
    """The stream's events after a position up to another one, in order, without a gap."""
    try:
        for chunk in raw_events(place, after, until):
            for at, raw in enumerate(chunk, after + 1):
                if raw[0] != at:
                    raise CannotMove(
                        f"position {at} is missing in the log at {place.address}; "
                        "`ridges ledger verify` names all that is wrong, `ridges ledger restore` how it comes back"
                    )
            after = chunk[-1][0]
            yield [event_of(raw) for raw in chunk]
            await asyncio.sleep(0)
    except (EventStoreUnavailable, EventRefused) as error:
        raise CannotMove(str(error)) from error


def event_of(raw: RawEvent) -> LogEvent:
    """The event in a message. Raises CannotMove for what is none."""
    position, subject, headers, content = raw
    words = subject.decode(errors="replace").split(".")
    event_id = header_of(headers, _MARK)
    if event_id is None:
        try:
            event_id = msgspec.json.decode(content, type=_Identified).id
        except msgspec.MsgspecError:
            raise CannotMove(f"the message at position {position} is no event: it has no id") from None
    if len(words) != 3:
        raise CannotMove(f"the message at position {position} is no event: it stands on the subject {'.'.join(words)}")
    return LogEvent(position=position, stream_id=words[1], type=words[2], event_id=event_id, content=content)


def header_of(headers: bytes, mark: bytes) -> str | None:
    """The header that begins with the mark (line break, name, colon)."""
    at = headers.find(mark)
    return None if at < 0 else headers[at + len(mark) : headers.find(b"\r\n", at + 2)].strip().decode(errors="replace")
