"""KurrentDB as the adapter needs it: few calls, our errors, never a silent truncation."""

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any, TypeVar
from urllib.parse import parse_qs, urlencode, urlsplit, urlunsplit

import structlog
from kurrentdbclient import AsyncKurrentDBClient, NewEvent, RecordedEvent, StreamState
from kurrentdbclient.connection_spec import grpc_target
from kurrentdbclient.exceptions import (
    AccessDeniedError,
    BadRequestError,
    InvalidArgumentError,
    InvalidTransactionError,
    KurrentDBClientError,
    MaximumAppendSizeExceededError,
    NodeIsNotLeaderError,
    NotFoundError,
    ProgrammingError,
    StreamIsDeletedError,
    StreamTombstonedError,
    UnauthenticatedError,
    WrongCurrentVersionError,
)

from ridges.chassis.kurrent.names import STREAM_PREFIX
from ridges.chassis.ports import EventRefused, EventStoreUnavailable, LogMismatch
from ridges.chassis.settings import SettingsError

log = structlog.get_logger(__name__)

CALL_TIMEOUT_S = 2.5
PATIENCE_S = 3.0
"""The client repeats a call by itself, up to sixteen times; it is cut off after so long."""
READ_TIMEOUT_S = 6.0
DEFAULT_OPTIONS = {"KeepAliveInterval": "10000", "KeepAliveTimeout": "5000"}
"""Milliseconds. Without them a subscription does not notice that its server is gone."""
RECONNECTING = (
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 1_000),
)
"""By itself gRPC waits up to two minutes before it looks again for a server that was away."""
EXAMPLE = "kurrentdb://user:password@host:2113?Tls=true"

PERMANENT = (
    AccessDeniedError,
    BadRequestError,
    InvalidArgumentError,
    InvalidTransactionError,
    MaximumAppendSizeExceededError,
    StreamIsDeletedError,
    StreamTombstonedError,
    UnauthenticatedError,
)
Result = TypeVar("Result")


class Moved(Exception):
    """The stream has grown since: its end is not where the append expected it."""


class KurrentConnection:
    """One client. Every call raises EventStoreUnavailable when nothing is known, EventRefused when it never works."""

    def __init__(self, url: str, name: str) -> None:
        """Does not connect yet. Raises SettingsError for a URL that cannot be used."""
        os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # else gRPC writes lines of its own to stderr
        complete = with_options(url, name)
        try:
            self._client = AsyncKurrentDBClient(complete)
        except (ValueError, OSError) as error:  # its text ends with the URL, which may hold a password
            raise SettingsError(_complaint(str(error).partition(complete)[0].rstrip(": "))) from None
        self._client.grpc_options += RECONNECTING
        spec = self._client.connection_spec
        if spec.options.node_preference != "leader":
            raise SettingsError(_complaint("NodePreference must be leader: decisions are made on what was read"))
        self.address = ",".join(spec.targets)

    async def close(self) -> None:
        with suppress(ProgrammingError, KurrentDBClientError):  # it was never connected; or its streams broke
            await self._client.close()

    async def append(self, stream: str, events: Sequence[NewEvent], end: int) -> None:
        """Append right after the first ``end`` events of the stream; all or none; safe to repeat.

        Source: with an expected version KurrentDB compares the ids of what stands there already, for ever.

        Raises:
            Moved: the stream is longer or shorter.
        """
        try:
            await self._ask(
                lambda: self._client.append_to_stream(
                    stream,
                    current_version=end - 1 if end else StreamState.NO_STREAM,
                    events=events,
                    timeout=CALL_TIMEOUT_S,
                )
            )
        except WrongCurrentVersionError as error:
            raise Moved(str(error)) from error

    async def read(self, stream: str, first: int = 0, limit: int | None = None) -> tuple[RecordedEvent, ...]:
        """The events of the stream from a revision on, in order; none when there is no such stream.

        Raises:
            LogMismatch: KurrentDB has dropped events of the stream.
        """
        options: dict[str, Any] = {} if limit is None else {"limit": limit}
        try:
            found = await self._ask(
                lambda: self._client.get_stream(stream, stream_position=first, timeout=READ_TIMEOUT_S, **options),
                READ_TIMEOUT_S,
            )
        except NotFoundError:
            return ()
        for revision, event in enumerate(found, first):
            if event.stream_position != revision:
                raise LogMismatch(
                    f"KurrentDB at {self.address} has dropped events of {stream} ({revision} to "
                    f"{event.stream_position - 1}): remove the stream's $maxCount, $maxAge or $tb and restore it"
                )
        return found

    async def metadata(self, stream: str) -> dict[str, Any]:
        """What is said about the stream; empty when nothing is."""
        fields, _ = await self.versioned_metadata(stream)
        return fields

    async def versioned_metadata(self, stream: str) -> tuple[dict[str, Any], int | StreamState]:
        """What is said about the stream, and which version of it that is."""
        return await self._ask(lambda: self._client.get_stream_metadata(stream, timeout=CALL_TIMEOUT_S))

    async def replace_metadata(self, stream: str, metadata: dict[str, Any], version: int | StreamState) -> None:
        """Set them in place of this version.

        Raises:
            Moved: somebody else has replaced it.
        """
        try:
            await self._ask(
                lambda: self._client.set_stream_metadata(
                    stream, metadata=metadata, current_version=version, timeout=CALL_TIMEOUT_S
                )
            )
        except WrongCurrentVersionError as error:
            raise Moved(str(error)) from error

    async def declare_metadata(self, stream: str, metadata: dict[str, Any]) -> None:
        """Set them, unless there are some already."""
        with suppress(WrongCurrentVersionError):
            await self._ask(
                lambda: self._client.set_stream_metadata(
                    stream, metadata=metadata, current_version=StreamState.NO_STREAM, timeout=CALL_TIMEOUT_S
                )
            )

    @asynccontextmanager
    async def following(self, after: int | None) -> AsyncIterator[AsyncIterator[RecordedEvent]]:
        """All events of our streams after a commit position (None: from the first), then what comes.

        Among them stands a ``CaughtUp`` each time the subscription reached the end.
        """
        subscription = await self._ask(
            lambda: self._client.subscribe_to_all(
                commit_position=after,
                filter_exclude=(),
                filter_include=(STREAM_PREFIX,),
                filter_by_stream_name=True,
                filter_by_prefix=True,
                include_caught_up=True,
            )
        )
        try:
            async with aclosing(self._translated(subscription)) as events:
                yield events
        finally:
            with suppress(KurrentDBClientError):
                await subscription.stop()

    async def _translated(self, subscription: AsyncIterator[RecordedEvent]) -> AsyncGenerator[RecordedEvent, None]:
        while True:
            try:
                event = await self._ask(lambda: anext(subscription), None)
            except StopAsyncIteration:
                raise EventStoreUnavailable(f"KurrentDB at {self.address} ended the subscription") from None
            yield event

    async def _ask(self, call: Callable[[], Awaitable[Result]], patience_s: float | None = PATIENCE_S) -> Result:
        try:
            async with asyncio.timeout(patience_s):
                return await call()
        except (WrongCurrentVersionError, NotFoundError, StopAsyncIteration):
            raise
        except NodeIsNotLeaderError as error:
            await self._go_to_leader(error)
            raise EventStoreUnavailable(f"KurrentDB at {self.address}: another node leads now") from error
        except PERMANENT as error:
            raise EventRefused(f"KurrentDB at {self.address} refuses: {_told(error)}") from error
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            raise EventStoreUnavailable(f"KurrentDB at {self.address}: a reconnection cut the call off") from None
        except TimeoutError:
            raise EventStoreUnavailable(
                f"no answer from KurrentDB at {self.address} for {patience_s:g} s; is it running?"
            ) from None
        except Exception as error:  # gRPC raises more than the client translates; nothing is known after any of it
            raise EventStoreUnavailable(
                f"no answer from KurrentDB at {self.address} ({_told(error)}); is it running?"
            ) from error

    async def _go_to_leader(self, error: NodeIsNotLeaderError) -> None:
        """The client does it by itself only when its URL names several nodes."""
        if error.host and error.port:
            log.info("KurrentDB has another leader", host=error.host, port=error.port)
            with suppress(KurrentDBClientError):
                await self._client.reconnect(grpc_target(error.host, error.port))


def with_options(url: str, name: str) -> str:
    """The URL with our defaults for what it leaves open."""
    parts = urlsplit(url)
    given = {key.lower() for key in parse_qs(parts.query)}
    ours = DEFAULT_OPTIONS | {"ConnectionName": name}
    added = urlencode({key: value for key, value in ours.items() if key.lower() not in given})
    query = "&".join(filter(None, (parts.query, added)))
    return urlunsplit((parts.scheme, parts.netloc, parts.path, query, ""))


def _complaint(problem: str) -> str:
    return f"RIDGES_EVENT_STORE_URL: {problem}; for example RIDGES_EVENT_STORE_URL={EXAMPLE}"


def _told(error: Exception) -> str:
    return str(error) or type(error).__name__
