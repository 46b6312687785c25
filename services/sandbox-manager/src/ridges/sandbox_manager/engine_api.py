"""The calls to a Docker Engine that sandboxes need. Its API: docs.docker.com/reference/api/engine."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Coroutine, Mapping
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

import msgspec

from ridges.sandbox_manager.errors import SandboxUnavailable
from ridges.sandbox_manager.unix_http import Reply, Streams, request, upgraded

T = TypeVar("T")

DEFAULT_ENGINE = "unix:///var/run/docker.sock"
MIN_API = (1, 41)
"""Engine 20.10."""
_CALL_S = 60
_REFUSED = 400
_READ_LOG = "read its log: sudo journalctl -u docker -n 50"


class EngineRefused(Exception):
    """An engine that answers, but does not do what it was asked for."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class EngineApi:
    """One engine. Calls end even when whoever makes them is cancelled, and raise ``SandboxUnavailable``:

    the engine's troubles as ours; ``refused`` tells whether it answered at all.
    """

    def __init__(self, url: str | None) -> None:
        """Takes no connection yet. ``url`` is like DOCKER_HOST, which is the default."""
        self._url = url or os.environ.get("DOCKER_HOST") or DEFAULT_ENGINE
        self._socket = self._url.removeprefix("unix://")
        self._api = ""
        self.cpus = 1

    async def image(self, name: str) -> dict[str, Any]:
        """What the engine knows of an image."""
        found: dict[str, Any] = await self._ask("GET", f"/images/{quote(name, safe='/:@')}/json")
        return found

    async def create(self, config: Mapping[str, Any], name: str) -> str:
        """The new container's id."""
        created = await self._ask("POST", "/containers/create", {"name": name}, msgspec.json.encode(config))
        return str(created["Id"])

    async def start(self, container: str) -> None:
        """Returns when its first process was started."""
        await self._ask("POST", f"/containers/{container}/start")

    async def state(self, container: str) -> dict[str, Any]:
        """``Running``, ``ExitCode``, ``OOMKilled`` and more."""
        return dict((await self._ask("GET", f"/containers/{container}/json"))["State"])

    async def ended(self, container: str, timeout_s: float) -> None:
        """Returns when it does not run (any more)."""
        await self._ask("POST", f"/containers/{container}/wait", timeout_s=timeout_s)

    async def remove(self, container: str) -> None:
        """Kills it when it runs."""
        await self._ask("DELETE", f"/containers/{container}", {"force": "1", "v": "1"})

    async def labelled(self, label: str) -> list[dict[str, Any]]:
        """All containers with a label, dead or alive."""
        filters = msgspec.json.encode({"label": [label]}).decode()
        found: list[dict[str, Any]] = await self._ask("GET", "/containers/json", {"all": "1", "filters": filters})
        return found

    @contextlib.asynccontextmanager
    async def attached(self, container: str) -> AsyncIterator[Streams]:
        """The container's three streams; before it starts, nothing is missed. Leaving closes its stdin."""
        async with contextlib.AsyncExitStack() as held:
            target = f"/v{self._api}/containers/{container}/attach?stdin=1&stdout=1&stderr=1&stream=1"
            yield await self._told(self._attach(held, target), _CALL_S)

    async def _attach(self, held: contextlib.AsyncExitStack, target: str) -> Streams:
        streams = await held.enter_async_context(upgraded(self._socket, target))
        if isinstance(streams, Reply):
            raise EngineRefused(streams.status, _reason(streams))
        return streams

    async def _ask(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: bytes | None = None,
        *,
        timeout_s: float = _CALL_S,
    ) -> Any:
        """The answer, decoded."""
        return await to_its_end(self._told(self._asked(method, path, query or {}, body), timeout_s))

    async def _asked(self, method: str, path: str, query: Mapping[str, str], body: bytes | None) -> Any:
        if not self._api:
            await self._get_to_know()
        target = f"/v{self._api}{path}" + (f"?{urlencode(query)}" if query else "")
        return _answer(await request(self._socket, method, target, body))

    async def _told(self, call: Awaitable[T], timeout_s: float) -> T:
        try:
            async with asyncio.timeout(timeout_s):
                return await call
        except EngineRefused as error:
            raise SandboxUnavailable(f"the Docker Engine refused: {error}", _READ_LOG) from error
        except TimeoutError as error:
            raise _unreachable(TimeoutError(f"nothing for {timeout_s} s"), self._url) from error
        except OSError as error:
            raise _unreachable(error, self._url) from error

    async def _get_to_know(self) -> None:
        if not self._url.startswith("unix://"):
            raise SandboxUnavailable(
                f"{self._url} is not a local Docker Engine",
                "sandboxes reach their proxy by a Unix socket: use unix:///var/run/docker.sock",
            )
        version = str(_answer(await request(self._socket, "GET", "/version"))["ApiVersion"])
        if tuple(map(int, version.split("."))) < MIN_API:
            raise SandboxUnavailable("the Docker Engine is older than 20.10", "update it")
        self.cpus = int(_answer(await request(self._socket, "GET", f"/v{version}/info"))["NCPU"])
        self._api = version


def _answer(reply: Reply) -> Any:
    if reply.status >= _REFUSED:
        raise EngineRefused(reply.status, _reason(reply))
    try:
        return msgspec.json.decode(reply.content) if reply.content else None
    except msgspec.DecodeError as error:
        raise ConnectionError("its answer is no JSON") from error


def _reason(reply: Reply) -> str:
    try:
        return str(msgspec.json.decode(reply.content)["message"])
    except (msgspec.DecodeError, KeyError, TypeError):
        return f"status {reply.status}"


async def to_its_end(work: Coroutine[Any, Any, T]) -> T:
    """Awaits the work to its end before a cancellation of ours goes on: half-made containers are leftovers."""
    task = asyncio.create_task(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.gather(task, return_exceptions=True)
        raise


def refused(error: SandboxUnavailable) -> int | None:
    """The status with which the engine refused; None when it did not even answer."""
    cause = error.__cause__
    return cause.status if isinstance(cause, EngineRefused) else None


def _unreachable(error: Exception, where: str) -> SandboxUnavailable:
    if isinstance(error, PermissionError):
        return SandboxUnavailable(
            f"no permission to use the Docker Engine at {where}",
            "add this user to its group: sudo usermod -aG docker $USER",
        )
    if isinstance(error, FileNotFoundError | ConnectionRefusedError):
        return SandboxUnavailable(
            f"no Docker Engine answers at {where}",
            "start it: sudo systemctl start docker (or infra/ci/install-docker.sh)",
        )
    return SandboxUnavailable(f"the Docker Engine at {where} does not answer: {error}", _READ_LOG)
