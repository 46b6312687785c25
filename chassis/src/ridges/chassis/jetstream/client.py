"""The NATS client, with a short way for what comes and goes thousands of times a second.

nats-py hands each message to a task of its subscription, with parsed headers, and sends by way of another task. An
answer to an append needs none of that. This is the one place that reaches below nats-py's public surface.
"""

from collections.abc import Callable, Mapping

from nats import errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

OnMessage = Callable[[bytes, bytes, bytes, bytes | None], None]
"""(subject, reply subject, content, header block)."""

_LINE = "NATS/1.0"


class LogClient(Client):
    """A client that can call back at once (``listen``) and write at once (``send``)."""

    def __init__(self) -> None:
        super().__init__()
        self._listeners: dict[int, OnMessage] = {}

    async def listen(self, subject: str, on_message: OnMessage) -> Subscription:
        """Subscribe, over reconnections.

        ``on_message`` is called in the reading task and must not raise. End it with ``unlisten``.
        """
        subscription = await self.subscribe(subject, cb=_never)
        self._listeners[subscription._id] = on_message  # noqa: SLF001 - see above
        return subscription

    async def unlisten(self, subscription: Subscription) -> None:
        self._listeners.pop(subscription._id, None)  # noqa: SLF001 - see above
        if not self.is_closed:
            await subscription.unsubscribe()

    def send(self, commands: bytes) -> None:
        """Protocol commands, as ``publication`` makes them.

        Raises:
            ConnectionClosedError: not connected just now; nothing was sent.
        """
        if not self.is_connected or self._transport is None:
            raise errors.ConnectionClosedError
        self._transport.write(commands)

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        on_message = self._listeners.get(sid)
        if on_message is None:
            await super()._process_msg(sid, subject, reply, data, headers)
        else:
            on_message(subject, reply, data, headers)


def publication(subject: str, headers: Mapping[str, str], content: bytes, reply: str = "") -> bytes:
    """The command that publishes a message. All parts must be free of blanks and line ends.

    Source: NATS client protocol, HPUB.
    """
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    block = f"NATS/1.0\r\n{lines}\r\n".encode()
    size = len(block)
    return b"".join((f"HPUB {subject} {reply} {size} {size + len(content)}\r\n".encode(), block, content, b"\r\n"))


def parsed_headers(block: bytes | None) -> dict[str, str]:
    """The headers of a message; ``Status`` and ``Description`` where the server itself speaks."""
    if not block:
        return {}
    first, *lines = block.decode(errors="replace").split("\r\n")
    status, _, description = first[len(_LINE) :].strip().partition(" ")
    found = {"Status": status} if status else {}
    if description:
        found["Description"] = description
    for line in lines:
        name, colon, value = line.partition(":")
        if colon:
            found[name.strip()] = value.strip()
    return found


async def _never(_: Msg) -> None:
    """Listeners are called before."""
