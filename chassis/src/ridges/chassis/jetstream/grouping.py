"""Single appends of many callers, brought to the server as one atomic batch where enough of them wait.

A server that syncs what it acknowledges syncs each message by itself, one after another; a batch costs it four syncs
whatever its size. So while few are in flight each goes alone, at once; else all that wait go together, one batch at a
time. A batch that the server rejects stores nothing, and each of its events then goes alone: what is wrong with one
never touches another.
"""

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any
from uuid import uuid4

import msgspec
from nats import errors
from nats.js.errors import APIError

from ridges.chassis.jetstream.asking import Answer
from ridges.chassis.jetstream.client import publication
from ridges.chassis.jetstream.connection import Connection
from ridges.chassis.ports import EventRefused, EventStoreUnavailable

BATCH_ID, BATCH_SEQUENCE, BATCH_COMMIT = "Nats-Batch-Id", "Nats-Batch-Sequence", "Nats-Batch-Commit"

WORTH_A_BATCH = 6
"""So many single ones cost the server about as much as a batch."""
LARGEST_BATCH = 500
LARGEST_BATCH_BYTES = 4 * 1024 * 1024
ALONE_AFTER_REJECTION_S = 0.5
"""Where a batch was rejected somebody else appends to the same streams: the next would be rejected, too."""


class Acknowledged(msgspec.Struct, frozen=True):
    """What the server says of a publication."""

    seq: int = 0
    duplicate: bool = False
    count: int = 1
    """Messages of the batch."""
    error: dict[str, Any] | None = None


_decode = msgspec.json.Decoder(Acknowledged).decode


class _Waiting(msgspec.Struct, eq=False):
    """One event that waits for the server."""

    subject: str
    headers: Mapping[str, str]
    content: bytes
    outcome: asyncio.Future[Acknowledged]
    conditional: bool

    def succeed(self, acknowledged: Acknowledged) -> None:
        if not self.outcome.done():
            self.outcome.set_result(acknowledged)

    def fail(self, error: BaseException) -> None:
        if not self.outcome.done():
            self.outcome.set_exception(error)


class Group:
    """All single appends over one connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._waiting: list[_Waiting] = []
        self._alone = 0
        """Single ones in flight."""
        self._batch_in_flight = False
        self._pumping = False
        self._alone_until = 0.0

    def append(
        self, subject: str, headers: Mapping[str, str], content: bytes, *, conditional: bool
    ) -> asyncio.Future[Acknowledged]:
        """What the server says of it. ``conditional``: the headers expect a position of this very subject.

        The future fails with APIError when the server rejects the event and with EventRefused when it denies it; with
        anything else nothing is known.
        """
        outcome: asyncio.Future[Acknowledged] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(subject, headers, content, outcome, conditional))
        self._pump_soon()
        return outcome

    def _pump_soon(self) -> None:
        """After everything else that is ready now: what comes together goes together."""
        if not self._pumping and self._waiting:
            self._pumping = True
            asyncio.get_running_loop().call_soon(self._pump)

    def _pump(self) -> None:
        self._pumping = False
        if self._batch_in_flight:
            return
        self._waiting = [waiting for waiting in self._waiting if not waiting.outcome.done()]
        batch: list[_Waiting] = []
        if len(self._waiting) >= WORTH_A_BATCH and asyncio.get_running_loop().time() >= self._alone_until:
            batch, self._waiting = _fitting(self._waiting)
        if len(batch) >= WORTH_A_BATCH:
            self._send_batch(batch)
            return
        self._waiting = batch + self._waiting
        while self._waiting and self._alone < WORTH_A_BATCH:
            self._send_alone(self._waiting.pop(0))

    def _send_alone(self, waiting: _Waiting) -> None:
        try:
            reply, answer = self._connection.ask((waiting.subject,))
            self._connection.client.send(publication(waiting.subject, waiting.headers, waiting.content, reply))
        except (errors.Error, EventStoreUnavailable) as error:
            waiting.fail(error)
            return
        self._alone += 1
        answer.add_done_callback(partial(self._on_single, waiting))

    def _on_single(self, waiting: _Waiting, answer: asyncio.Future[Answer]) -> None:
        self._alone -= 1
        try:
            acknowledged = _read(answer)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the caller's
            waiting.fail(error)
        else:
            waiting.succeed(acknowledged)
        self._pump_soon()

    def _send_batch(self, batch: list[_Waiting]) -> None:
        """A new batch id each time: what a lost try left behind never mixes in."""
        subjects = {waiting.subject for waiting in batch}
        try:
            first_reply, first = self._connection.ask(subjects)
            reply, commit = self._connection.ask(subjects)
            self._connection.client.send(_commands(batch, first_reply, reply))
        except (errors.Error, EventStoreUnavailable) as error:
            for waiting in batch:
                waiting.fail(error)
            return
        self._batch_in_flight = True
        first.add_done_callback(lambda done: done.exception())  # retrieved; the answer to the commit says it all
        commit.add_done_callback(partial(self._on_batch, batch))

    def _on_batch(self, batch: list[_Waiting], commit: asyncio.Future[Answer]) -> None:
        self._batch_in_flight = False
        try:
            acknowledged = _read(commit)
        except APIError:  # nothing of it is stored
            self._alone_until = asyncio.get_running_loop().time() + ALONE_AFTER_REJECTION_S
            self._waiting = batch + self._waiting
        except Exception as error:  # noqa: BLE001 - the callers try again, each by itself
            self._alone_until = asyncio.get_running_loop().time() + ALONE_AFTER_REJECTION_S
            for waiting in batch:
                waiting.fail(EventStoreUnavailable(str(error)) if isinstance(error, EventRefused) else error)
        else:
            for position, waiting in enumerate(batch, acknowledged.seq - len(batch) + 1):
                waiting.succeed(Acknowledged(seq=position))
        self._pump_soon()


def _fitting(waiting: list[_Waiting]) -> tuple[list[_Waiting], list[_Waiting]]:
    """The oldest that may go together, and the others. Never two of one subject where one expects its position."""
    batch: list[_Waiting] = []
    left: list[_Waiting] = []
    size = 0
    taken: dict[str, bool] = {}
    """Subject -> whether one of the batch expects its position."""
    for one in waiting:
        in_order = one.subject not in taken or not (one.conditional or taken[one.subject])
        size += len(one.content)
        if in_order and len(batch) < LARGEST_BATCH and size <= LARGEST_BATCH_BYTES:
            batch.append(one)
            taken[one.subject] = one.conditional
        else:
            left.append(one)
            taken[one.subject] = True  # what follows on the subject must not overtake it
    return batch, left


def _commands(batch: list[_Waiting], first_reply: str, reply: str) -> bytes:
    batch_id, last = uuid4().hex, len(batch)
    commands = []
    for number, waiting in enumerate(batch, 1):
        headers = {**waiting.headers, BATCH_ID: batch_id, BATCH_SEQUENCE: str(number)}
        if number == last:
            headers[BATCH_COMMIT] = "1"
        to = first_reply if number == 1 else reply if number == last else ""
        commands.append(publication(waiting.subject, headers, waiting.content, to))
    return b"".join(commands)


def _read(answer: asyncio.Future[Answer]) -> Acknowledged:
    acknowledged = _decode(answer.result().data)
    if acknowledged.error is not None:
        raise APIError.from_error(acknowledged.error)
    return acknowledged


def mark_batch(headers: Sequence[dict[str, str]]) -> None:
    """Add what makes messages with these headers one atomic batch; a single one needs nothing."""
    if len(headers) > 1:
        batch_id = uuid4().hex
        for number, of_one in enumerate(headers, 1):
            of_one |= {BATCH_ID: batch_id, BATCH_SEQUENCE: str(number)}
        headers[-1][BATCH_COMMIT] = "1"
