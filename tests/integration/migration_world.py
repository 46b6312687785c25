"""`ridges ledger migrate` as a process of its own, and services that write while it runs."""

import asyncio
import json
import os
import sys
from contextlib import asynccontextmanager

import msgspec
from integration.test_ledger_service import a_run, log_of
from unit.ledger.samples import Author

from ridges.chassis.jetstream.bulk import last_position, raw_events
from ridges.chassis.jetstream.fence import next_epoch
from ridges.chassis.jetstream.place import Place
from ridges.chassis.moving.jetstream import JetStreamSource, JetStreamTarget
from ridges.chassis.moving.nats_server import administered

AT_ONCE = 10


class Copier:
    """One run of the pass; ``settings`` beside those of the two servers."""

    def __init__(self, old, to, *flags, **settings):
        variables = {"RIDGES_NATS_URL": old.url, "RIDGES_MIGRATE_TO": to, **settings}
        self._environment = {k: v for k, v in os.environ.items() if not k.startswith("RIDGES_")} | variables
        self._flags = flags
        self.process = None
        self.phases = []

    async def start(self):
        self.process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "ridges.ledger.passes", "migrate", *self._flags),
            env=self._environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        return self

    async def kill9(self):
        if self.process.returncode is None:
            self.process.kill()
        await self.process.communicate()

    async def result(self):
        """Its exit code and its last line."""
        told, trouble = await self.process.communicate()
        lines = [json.loads(line) for line in told.splitlines()]
        assert lines, trouble.decode()
        self.phases = list(dict.fromkeys(line["progress"]["phase"] for line in lines if "progress" in line))
        return self.process.returncode, lines[-1]["migration"]


async def migrated(old, new, *flags, **settings):
    """The exit code and the result of one run. ``new``: a server, or a URL."""
    to = new if isinstance(new, str) else new.url
    proof = {} if isinstance(new, str) else {"RIDGES_TARGET_NATS_MONITOR_URL": new.monitor_url}
    copier = await Copier(old, to, *flags, **(proof | settings)).start()
    return await copier.result()


async def filled(server, runs):
    """A log with so many whole runs; its end."""
    author = Author()
    async with log_of(server) as store:
        for number in range(runs):
            events = list(a_run(author, number))
            position = await store.append(events[0].run_id, events)
    return position


def told(server, **login):
    """(position, subject, id, content) of every event."""
    place = Place(url=server.url, name="test", **login)
    last = last_position(place)
    messages = [raw for chunk in raw_events(place, 0, last) for raw in chunk] if last else []
    return [(n, subject, msgspec.json.decode(content)["id"], content) for n, subject, _, content in messages]


async def stream_of(server, name="EVENTS", **login):
    """What the server says of a stream; None when there is none."""
    async with server.client(**login) as nc:
        answer = json.loads((await nc.request(f"$JS.API.STREAM.INFO.{name}", timeout=10)).data)
        return None if "error" in answer else answer


class Writers:
    """Services that append until the log refuses them: what was acknowledged, and why they ended."""

    def __init__(self, server, count):
        self.acknowledged = {}
        self._tasks = [asyncio.create_task(self._write(server, number)) for number in range(count)]

    async def _write(self, server, number):
        author = Author()
        author.clock.ids = 10**6 * (number + 1)
        run_ids = [f"{number:04d}{lane:04d}-aaaa-4000-8000-000000000000" for lane in range(AT_ONCE)]
        async with log_of(server) as store:
            for run_id in run_ids:
                await self._append(store, author.requested(run_id))
            while True:
                events = [author.reserved(author.clock.new_id(), run_id, 10) for run_id in run_ids]
                answers = await asyncio.gather(*(self._append(store, e) for e in events), return_exceptions=True)
                for answer in answers:
                    if isinstance(answer, BaseException):
                        raise answer

    async def _append(self, store, event):
        self.acknowledged[event.id] = await store.append(event.run_id, [event])

    async def ended(self):
        """Why each ended, once all have."""
        async with asyncio.timeout(60):
            return await asyncio.gather(*self._tasks, return_exceptions=True)

    async def stop(self):
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


REQUEST = {"problem": "fix-a", "agent_source": "def agent_main(input):\n    return ''\n"}


def one_more():
    """An event that is in no log yet."""
    author = Author()
    author.clock.ids = 10**9
    return author.requested("00000099-0000-4000-8000-000000000000")


async def ask_for_runs(server, count):
    async with server.client() as nc:
        for _ in range(count):
            await nc.jetstream().publish("in.RunRequested", json.dumps(REQUEST).encode())


async def waiting(server):
    """How many requests wait in INGRESS."""
    found = await stream_of(server, "INGRESS")
    return 0 if found is None else found["state"]["messages"]


async def three_runs(ledger):
    listed = await ledger.until("/v1/runs", lambda a: a.status_code == 200 and len(a.json()["runs"]) == 3)
    return {run["run_id"] for run in listed.json()["runs"]}


@asynccontextmanager
async def both(old, new):
    """Both servers as their administrator."""
    places = [Place(url=server.url, name="test", monitor_url=server.monitor_url) for server in (old, new)]
    async with administered(places[0], "") as here, administered(places[1], "") as there:
        yield here, there


async def closed_half_way(old, new):
    """As a copier leaves it that was killed between closing the old log and handing over."""
    async with both(old, new) as (here, there):
        source, target = JetStreamSource(here), JetStreamTarget(there, allow_lossy=False)
        course = await source.course()
        half = await target.begin(course, next_epoch(course.epoch))
        async for chunk in source.events(0, 70):
            await target.write(chunk[0].position - 1, chunk)
        await source.close(half.migration, target.address, next_epoch(course.epoch))


async def until_log_says(server, record):
    """Asks as often as it can: some of the states last milliseconds."""
    async with server.client() as nc:
        while True:
            answer = json.loads((await nc.request("$JS.API.STREAM.INFO.EVENTS", timeout=10)).data)
            if answer.get("config", {}).get("metadata", {}).get("log_of_record") == record:
                return answer
