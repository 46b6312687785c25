"""Run a service: its HTTP app and its background work in one loop, ended by SIGTERM or SIGINT after a drain."""

import asyncio
import contextlib
import gc
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import structlog
import uvicorn
import uvloop
from litestar.types import ASGIApp

from ridges.chassis.http_protocol import strict_protocol
from ridges.chassis.ports import EventRefused, LogMismatch
from ridges.chassis.settings import SettingsError

log = structlog.get_logger(__name__)

EXIT_CRASHED = 1
EXIT_BAD_SETTINGS = 2
EXIT_PORT_TAKEN = 3
EXIT_REFUSED = 4
EXIT_FORCED = 130
HTTP_GRACE_S = 3


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> NoReturn:
    """Run a service's ``async def main()`` on uvloop and end the process with its exit code.

    Bad settings end with 2, a dependency that refuses with 4, each with one clear line on stderr.
    """
    try:
        uvloop.run(main())
    except SettingsError as error:
        _end(EXIT_BAD_SETTINGS, str(error))
    except (LogMismatch, EventRefused) as error:
        _end(EXIT_REFUSED, str(error))
    except KeyboardInterrupt:
        _end(EXIT_FORCED, "interrupted")
    sys.exit(0)


async def serve(
    app: ASGIApp,
    *,
    host: str,
    port: int,
    uds: Path | None = None,
    background: Sequence[Callable[[], Awaitable[None]]] = (),
    drain: Callable[[], Awaitable[None]] | None = None,
    drain_timeout_s: float = 20.0,
    read_timeout_s: float = 60.0,
) -> None:
    """Serve until SIGTERM or SIGINT: then ``drain()``, then stop HTTP, then cancel the background work.

    HTTP answers while the drain runs; afterwards open requests get three seconds, so ``drain`` waits for those that
    must not be cut and ends endless streams. A background task may end by itself; one that raises ends the service.
    A second SIGINT ends the process at once. Requests that do not parse get a JSON 400; those that have not arrived
    after ``read_timeout_s`` a JSON 408.

    Raises:
        SystemExit: 1 when HTTP or a background task crashed, 3 when the port (or socket) is taken.
        LogMismatch: a background task found that the log is not the configured one.
        EventRefused: the log refuses this service for good.
    """
    listening = _listen(host, port, uds)
    config = uvicorn.Config(
        app,
        http=strict_protocol(read_timeout_s),
        log_config=None,
        access_log=False,
        proxy_headers=False,
        lifespan="on",
        ws="none",
        timeout_graceful_shutdown=HTTP_GRACE_S,
    )
    server = _Server(config)
    stopping = asyncio.Event()
    gc.collect()
    gc.freeze()  # modules, routes and schemas stay until the end: walking them took an eighth of the processor time
    with _signals_set(stopping):
        http = asyncio.create_task(_serve_http(server, listening, stopping), name="http")
        tasks = [http, *(asyncio.ensure_future(work()) for work in background)]
        log.info("listening", at=str(uds or f"http://{host}:{port}"))
        try:
            crash = await _until_stopped_or_crashed(stopping, tasks)
            await _drain(drain, drain_timeout_s)
        finally:
            try:  # also when the log is refused and this task is cancelled: requests in flight get their answers
                stopping.set()
                server.should_exit = True
                await asyncio.wait([http], timeout=HTTP_GRACE_S + 2)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                listening.close()
    if isinstance(crash, LogMismatch | EventRefused):
        raise crash
    if crash is not None:
        raise SystemExit(EXIT_CRASHED)


class _Server(uvicorn.Server):
    """Signals are ours."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _listen(host: str, port: int, uds: Path | None) -> socket.socket:
    try:
        if uds is not None:
            uds.unlink(missing_ok=True)
            listening = socket.socket(socket.AF_UNIX)
            listening.bind(str(uds))
        else:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            listening = socket.socket(family)
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind((host, port))
        listening.listen(2048)
    except OSError as error:
        where = uds or f"{host}:{port}"
        _end(EXIT_PORT_TAKEN, f"cannot listen on {where}: {error.strerror}; stop what uses it or set RIDGES_HTTP_PORT")
    listening.setblocking(False)
    return listening


async def _serve_http(server: uvicorn.Server, listening: socket.socket, stopping: asyncio.Event) -> None:
    try:
        await server.serve(sockets=[listening])
    except SystemExit:
        raise RuntimeError("the application did not start; the log above says why") from None
    if not stopping.is_set():
        raise RuntimeError("the HTTP server ended by itself; the log above says why")


@contextlib.contextmanager
def _signals_set(stopping: asyncio.Event) -> Iterator[None]:
    """SIGTERM and SIGINT set the event; the second SIGINT ends the process."""
    received: list[signal.Signals] = []

    def on_signal(number: signal.Signals) -> None:
        if number is signal.SIGINT and signal.SIGINT in received:
            sys.stderr.write("interrupted twice: ending at once\n")
            sys.stderr.flush()
            os._exit(EXIT_FORCED)
        received.append(number)
        stopping.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


async def _until_stopped_or_crashed(
    stopping: asyncio.Event, tasks: Sequence[asyncio.Future[Any]]
) -> BaseException | None:
    """Why the service ends: None for a signal, else the error of the task that crashed."""
    waiting = asyncio.ensure_future(stopping.wait())
    left = {waiting, *tasks}
    try:
        while not waiting.done():
            done, left = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
            for task in done - {waiting}:
                error = None if task.cancelled() else task.exception()
                if isinstance(error, LogMismatch | EventRefused):
                    return error  # the last line on stderr says it
                if error is not None:
                    log.error("a part of the service crashed, ending", error=str(error), exc_info=error)
                    return error
    finally:
        waiting.cancel()
    return None


async def _drain(drain: Callable[[], Awaitable[None]] | None, timeout_s: float) -> None:
    if drain is None:
        return
    try:
        async with asyncio.timeout(timeout_s):
            await drain()
    except TimeoutError:
        log.warning("the drain did not end in time", timeout_s=timeout_s)


def _end(code: int, message: str) -> NoReturn:
    sys.stderr.write(message.rstrip() + "\n")
    sys.stderr.flush()
    raise SystemExit(code)
