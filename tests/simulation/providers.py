"""Model providers that fail in every way, and keep the books that the ledger is compared with."""

import asyncio
import random
from contextlib import asynccontextmanager

import msgspec
from unit.gateway.support import ScriptedStream, chunk, completion, model, provider, usage

from ridges.gateway.ports import ProviderReply, ProviderTooSlow, ProviderUnreachable

DONE = b"data: [DONE]\n\n"
MAX_OUTPUT = 400
TIMEOUT_S = 12.0


class Billed(msgspec.Struct, frozen=True):
    """What a provider charged for a request that it answered to the end."""

    run_id: str
    provider: str
    input: int
    output: int


class Books:
    """What all providers charged."""

    def __init__(self) -> None:
        self.billed: list[Billed] = []
        self.miscounts = False
        """Now and then the answer tells one token less than is charged."""


def configured(name: str, weight: float):
    """The provider's table in the gateway's configuration."""
    return provider(name, model(max_output=MAX_OUTPUT, context=4_000), timeout_s=TIMEOUT_S, weight=weight)


class SimulatedProvider:
    """Fails with the given chance; answers with an output of random length."""

    def __init__(self, name: str, books: Books, dice: random.Random, fails: float) -> None:
        self._name, self._books, self._dice, self._fails = name, books, dice, fails

    async def send(self, path, body, timeout_s, *, traceparent=None):
        asked = msgspec.json.decode(body)
        await self._work(timeout_s)
        failure = self._failure()
        if failure is not None:
            return failure
        prompt, output = self._bill(asked)
        return completion("answer", prompt=prompt, output=output)

    @asynccontextmanager
    async def stream(self, body, timeout_s, idle_s, *, traceparent=None):
        asked = msgspec.json.decode(body)
        await self._work(timeout_s)
        failure = self._failure()
        if failure is not None:
            yield ScriptedStream([], failure.status, failure.body, failure.retry_after_s)
            return
        acts: list = [chunk("some "), self._dice.uniform(0.0, 2.0), chunk("text")]
        if self._dice.random() < self._fails / 2:
            yield ScriptedStream([*acts, ProviderUnreachable("cut in the middle")])
            return
        yield _BilledStream(acts, lambda: self._bill(asked))

    async def close(self):
        pass

    async def _work(self, timeout_s: float) -> None:
        takes_s = self._dice.expovariate(1.0)
        if self._dice.random() < self._fails / 4:
            takes_s = timeout_s + 1
        await asyncio.sleep(min(takes_s, timeout_s))
        if takes_s > timeout_s:
            raise ProviderTooSlow("no answer in time")

    def _failure(self) -> ProviderReply | None:
        if self._dice.random() >= self._fails:
            return None
        kind = self._dice.randrange(4)
        if kind == 0:
            raise ProviderUnreachable("connection refused")
        status = (429, 500, 503, 400)[kind]
        return ProviderReply(status=status, body=b'{"error": {"message": "simulated"}}', retry_after_s=None)

    def _bill(self, asked: dict) -> tuple[int, int]:
        text = asked["messages"][0]["content"]
        most = min(asked.get("max_tokens") or MAX_OUTPUT, MAX_OUTPUT)
        prompt, output = 5 + len(text) // 4, self._dice.randint(1, most)
        more = int(self._books.miscounts and output % 8 == 0)
        self._books.billed.append(Billed(text.split()[0], self._name, prompt, output + more))
        return prompt, output


class _BilledStream(ScriptedStream):
    """Billed when its last chunk, with the usage, goes out."""

    def __init__(self, acts, bill) -> None:
        super().__init__(acts)
        self._bill = bill

    async def chunks(self):
        async for piece in super().chunks():
            yield piece
        prompt, output = self._bill()
        yield chunk(finish="stop")
        yield chunk(usage=usage(prompt, output), choices=False)
        yield DONE
