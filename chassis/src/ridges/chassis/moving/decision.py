"""Whether a move was accepted or given up: decided once, at the new server, whoever asks first and dies when.

A stream's configuration cannot be changed under a condition, so a copier and an ``--abort`` that run at the same time
could both believe to have won. A message can: it is stored only while its subject is empty.
"""

from typing import Literal

import msgspec
from nats.js.errors import APIError

from ridges.chassis.jetstream.connection import read_reply
from ridges.chassis.jetstream.streams import KIB
from ridges.chassis.moving.nats_server import NatsServer
from ridges.chassis.moving.ports import CannotMove

Decision = Literal["accepted", "given up"]

STREAM = "MOVES"
MAX_BYTES = 1024 * KIB
FIRST_OF_ITS_SUBJECT = {"Nats-Expected-Last-Subject-Sequence": "0"}
TAKEN = frozenset({10071, 10164})


class Decisions:
    """One word for each move, in a stream of the new server that stays."""

    def __init__(self, server: NatsServer) -> None:
        self._server = server

    async def declare(self, replicas: int = 1) -> None:
        """Make room for the words."""
        if await self._server.stream(STREAM) is None:
            config = {"name": STREAM, "subjects": [_subject("*")], "storage": "file", "max_bytes": MAX_BYTES}
            config |= {"discard": "new", "deny_delete": True, "num_replicas": replicas}
            await self._server.api(f"STREAM.CREATE.{STREAM}", config)

    async def decide(self, migration: str, wanted: Decision) -> Decision:
        """What is decided now: what was wanted, unless the other word was there before."""
        answer = await self._server.ask_again(_subject(migration), wanted.encode(), FIRST_OF_ITS_SUBJECT)
        try:
            read_reply(answer)
        except APIError as error:
            found = await self.found(migration) if error.err_code in TAKEN else None
            if found is None:
                raise CannotMove(
                    f"{self._server.place.address} does not take down that the move is {wanted}: {error.description}"
                ) from error
            return found
        return wanted

    async def found(self, migration: str) -> Decision | None:
        """What was decided; None: nothing yet."""
        if await self._server.stream(STREAM) is None:
            return None
        message = await self._server.message(STREAM, {"last_by_subj": _subject(migration)})
        return None if message is None else msgspec.convert(message.data.decode(), Decision)


def _subject(migration: str) -> str:
    return f"move.{migration}"
