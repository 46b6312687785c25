"""What the NATS server denies reaches whoever waits for it: to the client alone it would look like a timeout."""

import asyncio
from collections.abc import Awaitable
from typing import NoReturn, TypeVar

from ridges.chassis.ports import EventRefused

Result = TypeVar("Result")


class Denials:
    """The error callback of one client (``error_cb=denials.on_error``)."""

    def __init__(self, user: str | None, mend: str) -> None:
        """``mend``: what to do about it, the end of the message."""
        self._user, self._mend = user, mend
        self._heard: asyncio.Future[NoReturn] | None = None

    async def on_error(self, error: Exception) -> None:
        """Raises EventRefused for a wrong password, out of a client that would try to connect for ever."""
        told = str(error).lower()
        refused = EventRefused(f"{error}; the NATS server refuses user {self._user!r}: {self._mend}")
        if "authorization violation" in told:
            raise refused
        if "permissions violation" in told and self._heard is not None and not self._heard.done():
            self._heard.set_exception(refused)

    async def heeded(self, work: Awaitable[Result]) -> Result:
        """The work's result, unless the server denies something meanwhile.

        Raises:
            EventRefused: it does; the work is cancelled.
        """
        heard: asyncio.Future[NoReturn] = asyncio.get_running_loop().create_future()
        self._heard = heard
        working = asyncio.ensure_future(work)
        try:
            await asyncio.wait((working, heard), return_when=asyncio.FIRST_COMPLETED)
            return heard.result() if heard.done() else working.result()
        finally:
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)
            self._heard = None
            if not heard.cancel():
                heard.exception()
