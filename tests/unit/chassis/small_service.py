"""The smallest service: what the tests of ``serving`` start."""

import asyncio
from contextlib import AsyncExitStack, suppress

import msgspec
from litestar import Litestar, get

from ridges.chassis import health, logs, problems_http, serving, settings
from ridges.chassis.jetstream import open_event_store
from ridges.chassis.ports import EventStoreUnavailable


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    http_port: int
    drain_s: float = 0
    drain_timeout_s: float = 20
    crash_after_s: float | None = None
    bad_startup: bool = False
    nats_url: str | None = None
    nats_monitor_url: str | None = None


async def main() -> None:
    given = settings.load(Settings)
    logs.configure("small")

    async def work() -> None:
        try:
            await asyncio.sleep(3_600 if given.crash_after_s is None else given.crash_after_s)
        except asyncio.CancelledError:
            print("work cancelled", flush=True)
            raise
        raise RuntimeError("the work broke")

    async def drain() -> None:
        await asyncio.sleep(given.drain_s)
        print("drained", flush=True)

    async def fail() -> None:
        raise RuntimeError("cannot start")

    store = None
    async with AsyncExitStack() as stack:
        checks = {}
        if given.nats_url is not None:
            opening = open_event_store(given.nats_url, name="small", monitor_url=given.nats_monitor_url)
            store = await stack.enter_async_context(opening)
            checks["log"] = store.ping

        @get("/slow")
        async def slow() -> None:
            """Answers once the log has failed."""
            while True:
                with suppress(EventStoreUnavailable):
                    await store.ping()
                await asyncio.sleep(0.01)

        app = Litestar(
            [*health.health_handlers("small", checks), slow],
            exception_handlers=problems_http.exception_handlers,
            on_startup=[fail] if given.bad_startup else [],
            logging_config=None,
        )
        await serving.serve(
            app,
            host="127.0.0.1",
            port=given.http_port,
            background=[work],
            drain=drain,
            drain_timeout_s=given.drain_timeout_s,
        )


if __name__ == "__main__":
    serving.run(main)
