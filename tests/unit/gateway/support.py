"""A gateway without network: memory store, memory blobs, scripted providers."""

import asyncio
import random
from collections.abc import Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from uuid import uuid4

import msgspec
from prometheus_client import CollectorRegistry

from ridges.chassis.blob_store import MemoryBlobStore
from ridges.chassis.clock import SystemClock
from ridges.chassis.memory_store import MemoryEventStore
from ridges.contracts import events as ev
from ridges.contracts.blobs import ref_to
from ridges.contracts.limits import ModelLimits, RunLimits
from ridges.contracts.usage import TokenPrice
from ridges.gateway.app import wire_gateway
from ridges.gateway.calls import ModelCall, encoded
from ridges.gateway.meters import Meters
from ridges.gateway.ports import ProviderReply, ProviderTooSlow, ProviderUnreachable
from ridges.gateway.providers_config import Model, Provider, ProvidersConfig
from ridges.gateway.settings import GatewaySettings

KEY = b"k" * 32
PRICE = TokenPrice(input=1_000_000_000, output=4_000_000_000, cached_input=500_000_000, reasoning=4_000_000_000)
"""1 USD and 4 USD per million tokens: 1,000 and 4,000 nano-USD a token."""
CLOCK = SystemClock()


def model(name="m", **changes) -> Model:
    fields = {"name": name, "served": f"served-{name}", "kind": "chat", "context": 100_000, "max_output": 1_000}
    return Model(**(fields | {"price": PRICE} | changes))


def provider(name="p", *models: Model, **changes) -> Provider:
    fields = {"name": name, "kind": "openai", "base_url": "http://x", "key": None, "recordings": (), "weight": 1.0}
    fields |= {"timeout_s": 5.0, "max_concurrency": 64, "models": models or (model(),)}
    return Provider(**(fields | changes))


def completion(content="hi", prompt=10, output=5, **message) -> ProviderReply:
    body = {
        "choices": [{"index": 0, "message": {"role": "assistant", "content": content, **message}}],
        "usage": {"prompt_tokens": prompt, "completion_tokens": output, "total_tokens": prompt + output},
    }
    return ProviderReply(status=200, body=msgspec.json.encode(body))


def chunk(content=None, *, finish=None, usage="absent", choices=True) -> bytes:
    body = {"choices": [{"index": 0, "delta": {"content": content}, "finish_reason": finish}] if choices else []}
    if usage != "absent":
        body["usage"] = usage
    return b"data: " + msgspec.json.encode(body) + b"\n\n"


def usage(prompt=10, output=5) -> dict:
    return {"prompt_tokens": prompt, "completion_tokens": output, "total_tokens": prompt + output}


class ScriptedProvider:
    """Does what its script says; remembers the bodies it got and how many calls are open."""

    def __init__(self, script: Callable[[dict], ProviderReply | list | Exception | float] = lambda _: completion()):
        self.script = script
        self.bodies: list[dict] = []
        self.traceparents: list[str | None] = []
        self.open = self.most_open = self.abandoned = 0

    async def send(self, path, body, timeout_s, *, traceparent=None):
        with self._counted():
            return await self._act(self.script(self._noted(body, traceparent)), timeout_s)

    @asynccontextmanager
    async def stream(self, body, timeout_s, idle_s, *, traceparent=None):
        with self._counted():
            act = self.script(self._noted(body, traceparent))
            if isinstance(act, ProviderReply) and act.status == 200:
                act = [act.body]
            if isinstance(act, list):
                stream = ScriptedStream(act)
                try:
                    yield stream
                finally:
                    self.abandoned += not stream.given
            else:
                reply = await self._act(act, timeout_s)
                yield ScriptedStream([], reply.status, reply.body, reply.retry_after_s)

    async def close(self):
        pass

    def _noted(self, body, traceparent):
        decoded = msgspec.json.decode(body)
        self.bodies.append(decoded)
        self.traceparents.append(traceparent)
        return decoded

    async def _act(self, act, timeout_s):
        if isinstance(act, Exception):
            raise act
        if isinstance(act, float):
            await asyncio.sleep(min(act, timeout_s))
            if act > timeout_s:
                raise ProviderTooSlow("too slow")
            return completion()
        return act

    def _counted(self):
        return _Counted(self)


class _Counted:
    def __init__(self, owner):
        self.owner = owner

    def __enter__(self):
        self.owner.open += 1
        self.owner.most_open = max(self.owner.most_open, self.owner.open)

    def __exit__(self, kind, *_):
        self.owner.open -= 1
        self.owner.abandoned += kind in (asyncio.CancelledError, GeneratorExit)


class ScriptedStream:
    def __init__(self, acts, status=200, body=b"", retry_after_s=None):
        self.acts, self.status, self._body, self.retry_after_s = acts, status, body, retry_after_s
        self.given = False
        """To its end."""

    async def flow(self, sink):
        async for piece in self.chunks():
            sink(piece)
        self.given = True

    def pause(self):
        pass

    def resume(self):
        pass

    def enough(self):
        self.given = True

    async def chunks(self):
        for act in self.acts:
            if isinstance(act, Exception):
                raise act
            if isinstance(act, float):
                await asyncio.sleep(act)
            else:
                yield act

    async def body(self):
        return self._body


class Caller:
    """Takes the events of a stream."""

    def __init__(self):
        self.begun, self.events, self.news = False, [], asyncio.Event()

    async def begin(self):
        self.begun = True

    def write(self, events):
        assert self.begun
        self.events.append(events)
        self.news.set()
        return True

    def when_read(self, then):
        then()


async def events_of(calls, run_id, call):
    """What a caller of a stream gets, as it comes; closing it is leaving."""
    caller = Caller()
    working = asyncio.ensure_future(calls.stream(run_id, call, caller))
    working.add_done_callback(lambda _: caller.news.set())
    try:
        while True:
            while caller.events:
                yield caller.events.pop(0)
            if working.done():
                working.result()
                return
            caller.news.clear()
            await caller.news.wait()
    finally:
        if not working.done():
            working.cancel()
            await asyncio.wait({working})


class World:
    """One log and any number of gateways over it."""

    def __init__(self, *providers: tuple[Provider, ScriptedProvider], tracing=None, **settings):
        self.store, self.blobs = MemoryEventStore(CLOCK), MemoryBlobStore()
        self.providers = providers or ((provider(), ScriptedProvider()),)
        self.settings, self.tracing = settings, tracing
        self.gateways = []

    @property
    def pipeline(self):
        return self.gateways[0].pipeline

    @asynccontextmanager
    async def running(self, gateways=1):
        following = [asyncio.create_task(self.add_gateway(seed).states.follow()) for seed in range(gateways)]
        await asyncio.gather(*(gateway.states.following() for gateway in self.gateways))
        try:
            yield self
        finally:
            for task in following:
                task.cancel()
            for task in following:
                with suppress(asyncio.CancelledError):
                    await task

    def add_gateway(self, seed=0):
        config = ProvidersConfig(providers=tuple(known for known, _ in self.providers), price_list="test")
        self.gateways.append(
            wire_gateway(
                GatewaySettings(
                    config=Path("ridges.toml"), run_token_key=KEY.hex(), blobs_url="file:///x", **self.settings
                ),
                config,
                adapters={known.name: adapter for known, adapter in self.providers},
                store=self.store,
                blobs=self.blobs,
                clock=CLOCK,
                meters=Meters(CollectorRegistry()),
                rng=random.Random(seed),
                tracing=self.tracing,
            )
        )
        return self.gateways[-1]

    async def run(self, *, started=True, **limits) -> str:
        """A new run in the log, its agent running."""
        run_id = str(uuid4())
        await self.store.append(run_id, run_events(run_id, started=started, **limits))
        return run_id

    async def events(self, run_id, *kinds):
        return [r.event for r in await self.store.read_run(run_id) if not kinds or isinstance(r.event, kinds)]


def run_events(run_id, *, started=True, **limits) -> list[ev.Event]:
    blob = ref_to(b"x", "text/plain")
    head = {"run_id": run_id, "time": CLOCK.now()}
    requested = ev.RunRequested(
        id=CLOCK.new_id(),
        problem_id="p",
        problem_digest="d",
        statement=blob,
        workspace=blob,
        agent=blob,
        agent_name="a.py",
        limits=RunLimits(model=ModelLimits(**limits)),
        **head,
    )
    begun = ev.AgentStarted(id=CLOCK.new_id(), attempt=1, manager="m", sandbox="process", **head)
    return [requested, begun] if started else [requested]


def chat(name="m", text="hello", **changes) -> ModelCall:
    fields = {"messages": encoded([{"role": "user", "content": text}])}
    return ModelCall(**({"kind": "chat", "model": name, "fields": fields, "received": b"{}"} | changes))


async def until(check):
    """Returns when the check, which may be async, is true."""
    async with asyncio.timeout(20):
        while not (await found if asyncio.iscoroutine(found := check()) else found):  # noqa: ASYNC110 - any condition
            await asyncio.sleep(0.01)


UNREACHABLE = ProviderUnreachable("connection refused")
