"""Requests and their answers: one inbox, one future each, one timer for all of them."""

import asyncio
from collections.abc import Collection

from nats import errors

from ridges.chassis.jetstream.client import LogClient, parsed_headers

SWEEP_S = 0.25
NO_RESPONDERS = "503"
STATUS_LINE = b"NATS/1.0 "
"""How the headers begin of what the server itself says."""


class Answer:
    """What came back."""

    __slots__ = ("_block", "data")

    def __init__(self, data: bytes, block: bytes | None) -> None:
        self.data, self._block = data, block

    @property
    def headers(self) -> dict[str, str]:
        return parsed_headers(self._block)


class _Question:
    __slots__ = ("answer", "before", "deadline", "subjects", "timeout_s")

    def __init__(
        self,
        subjects: Collection[str],
        answer: "asyncio.Future[Answer]",
        now: float,
        timeout_s: float,
        before: list[Answer] | None,
    ) -> None:
        self.subjects, self.answer, self.before = subjects, answer, before
        self.timeout_s, self.deadline = timeout_s, now + timeout_s


class Questions:
    """Those in flight over one client."""

    def __init__(self, client: LogClient) -> None:
        self._client = client
        self._inbox = f"{client.new_inbox()}."
        self._waiting: dict[str, _Question] = {}
        self._count = 0
        self._sweeping: asyncio.TimerHandle | None = None

    async def open(self) -> None:
        """Subscribe to the answers."""
        await self._client.listen(self._inbox + "*", self._on_answer)

    def ask(
        self, subjects: Collection[str], timeout_s: float, before: list[Answer] | None = None
    ) -> "tuple[str, asyncio.Future[Answer]]":
        """The reply subject to send along, and the answer to it.

        With ``before`` the answer is the one with a status; those before it are put into the list, and the timeout is
        for each.

        ``subjects``: those that are published to, lower case. Their denial fails the question (see ``deny``).
        The answer fails with TimeoutError and NoRespondersError of nats-py, or with what ``deny`` or ``lose`` give it.
        """
        loop = asyncio.get_running_loop()
        self._count += 1
        token = str(self._count)
        answer: asyncio.Future[Answer] = loop.create_future()
        self._waiting[token] = _Question(subjects, answer, loop.time(), timeout_s, before)
        if self._sweeping is None:
            self._sweeping = loop.call_later(SWEEP_S, self._sweep)
        return self._inbox + token, answer

    def deny(self, subject: str, error: Exception) -> None:
        """Fail what was published to the subject (lower case)."""
        for question in self._waiting.values():
            if subject in question.subjects:
                _fail(question.answer, error)

    def lose(self, error: Exception) -> None:
        """Fail everything: the connection was lost, the answers with it."""
        for question in self._waiting.values():
            _fail(question.answer, error)
        self._waiting.clear()

    def _on_answer(self, subject: bytes, _reply: bytes, data: bytes, block: bytes | None) -> None:
        token = subject[len(self._inbox) :].decode()
        question = self._waiting.get(token)
        if question is None or question.answer.done():
            return
        if question.before is not None and (block is None or not block.startswith(STATUS_LINE)):
            question.before.append(Answer(data, block))
            question.deadline = asyncio.get_running_loop().time() + question.timeout_s
            return
        del self._waiting[token]
        answer = Answer(data, block)
        if block is not None and answer.headers.get("Status") == NO_RESPONDERS:
            question.answer.set_exception(errors.NoRespondersError())
        else:
            question.answer.set_result(answer)

    def _sweep(self) -> None:
        now = asyncio.get_running_loop().time()
        over = [token for token, question in self._waiting.items() if question.answer.done() or question.deadline < now]
        for token in over:
            _fail(self._waiting.pop(token).answer, errors.TimeoutError())
        self._sweeping = asyncio.get_running_loop().call_later(SWEEP_S, self._sweep) if self._waiting else None


def _fail(answer: "asyncio.Future[Answer]", error: Exception) -> None:
    if not answer.done():
        answer.set_exception(error)
