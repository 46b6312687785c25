"""The port to a provider. Adapters: ``openai_http`` (any OpenAI-compatible URL), ``replay`` (recorded replies).

``recording`` wraps one of them and writes down what it answers.
"""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Literal, NamedTuple, Protocol

import msgspec

from ridges.contracts.events import InferenceAttempt

Path = Literal["chat/completions", "embeddings"]

Sink = Callable[[bytes], None]
"""Takes a piece of an answer, at once and without waiting. What it raises ends the answer."""


class Tried(NamedTuple):
    """One attempt that has ended."""

    began_at: float
    """Monotonic seconds."""
    attempt: InferenceAttempt
    traceparent: str | None
    """W3C trace context that the provider was sent."""
    reported_nano_usd: int | None = None
    """What the provider itself says that it charges, where it says so."""


Timeline = list[Tried]
"""The attempts of a call."""

NextSpan = Callable[[], str | None]
"""The ``traceparent`` of the attempt of a call that begins now."""
SpansOf = Callable[[str | None], NextSpan]
"""Of a call, by its caller's ``traceparent``."""


def passed_on(traceparent: str | None) -> NextSpan:
    """The caller's own context for every attempt: who makes no spans passes on what came. Source: W3C Trace Context."""
    return lambda: traceparent


class ProviderUnreachable(Exception):
    """No connection, or it broke before the answer began. The message holds no secret."""


class AnswerCut(Exception):
    """A good answer (status 200) had begun and did not end: the provider has worked, and will bill it."""

    def __init__(self, why: str, received: bytes = b"") -> None:
        super().__init__(why)
        self.received = received
        """The part of a buffered answer that came."""


class ProviderTooSlow(Exception):
    """The timeout passed before the answer was complete."""


class ProviderReply(msgspec.Struct, frozen=True, kw_only=True):
    """A complete answer of a provider, good or bad."""

    status: int
    body: bytes
    retry_after_s: float | None = None


class ProviderStream(Protocol):
    """An answer that is still coming."""

    status: int
    retry_after_s: float | None
    """Known once the body was read."""

    async def flow(self, sink: Sink) -> None:
        """Server-sent events, cut anywhere, given to the sink as they come; returns at the end of the answer.

        Raises:
            AnswerCut: the connection broke.
            ProviderTooSlow: silent for longer than the idle timeout.
            Exception: what the sink raised.

        """

    def pause(self) -> None:
        """Whoever reads is slow: ask the provider for no more, until ``resume``."""

    def resume(self) -> None: ...

    def enough(self) -> None:
        """All that counts has come: the connection may be used again when the provider ends the answer soon."""

    async def body(self) -> bytes:
        """The whole body (of an error), at most 64 KiB."""


class ModelProvider(Protocol):
    """One provider. Leaving a call early (cancellation) closes its connection to the provider at once."""

    async def send(self, path: Path, body: bytes, timeout_s: float, *, traceparent: str | None = None) -> ProviderReply:
        """The answer to an OpenAI-style JSON body.

        Raises:
            ProviderUnreachable: no connection, or it broke before a status came.
            AnswerCut: it broke after the status 200, or the answer is too large.
            ProviderTooSlow: not complete within the timeout.

        """

    def stream(
        self, body: bytes, timeout_s: float, idle_s: float, *, traceparent: str | None = None
    ) -> AbstractAsyncContextManager[ProviderStream]:
        """The streamed answer to a chat body; entered when the status is known.

        Raises:
            ProviderUnreachable: no connection.
            ProviderTooSlow: no status within the timeout.

        """

    async def close(self) -> None:
        """Release connections."""


class Outlet(Protocol):
    """Where the events of a stream go: to a caller, or to all who ask under one key."""

    begun: bool
    """Something went out: from now on failures are told in the stream."""

    async def begin(self) -> None:
        """Once, before the first event."""

    def write(self, events: bytes) -> bool:
        """Send on, at once. False: the caller reads slowly, so that no more should come until it has caught up."""

    def when_read(self, then: Callable[[], None]) -> None:
        """Call ``then`` once the slow caller has caught up."""
