"""Only paths as they are written in the documents: nothing is decoded or normalised before a route is chosen.

Model calls go straight to their handlers, everything else through Litestar.
"""

from collections.abc import Mapping

import msgspec
from litestar import Litestar
from litestar.enums import ScopeType
from litestar.types import Receive, Scope, Send

from ridges.gateway.connection import Handler, Request, json_response
from ridges.gateway.errors import CallerGone, GatewayError, MethodNotAllowed
from ridges.gateway.replies import answer_of, error_body, unexpected

NO_SUCH_PATH = "There is no such path; /schema/openapi.json lists them. Paths count as they are written, byte by byte."


class ExactPaths:
    """The application, closed to ``//v1//models``, ``/v1/%6dodels``, ``/v1/x/../models`` and the like."""

    def __init__(self, app: Litestar, calls: Mapping[str, Handler]) -> None:
        self.app, self.calls = app, calls
        """Model calls go to their handlers by path, with POST only."""
        self._calls = {path.encode(): handler for path, handler in calls.items()}
        paths = [route.path for route in app.routes]
        self._exact = frozenset(path.encode() for path in paths if "{" not in path)
        self._folders = tuple(path[: path.index("{")].encode() for path in paths if "{" in path)
        """Their last part is a name, which may hold slashes and escapes."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == ScopeType.HTTP and (handler := self._calls.get(scope["raw_path"])) is not None:
            await _answered(handler, Request(scope, receive, send))
            return
        if scope["type"] != ScopeType.HTTP or self._has(scope["raw_path"]):
            await self.app(scope, receive, send)
            return
        body = error_body(scope["path"], 404, NO_SUCH_PATH, NO_SUCH_PATH, "no_such_path")
        await json_response(msgspec.json.encode(body), status=404)(scope, receive, send)

    def _has(self, raw_path: bytes) -> bool:
        if raw_path in self._exact:
            return True
        for folder in self._folders:
            if raw_path.startswith(folder):
                return all(part not in (b"", b".", b"..") for part in raw_path[len(folder) :].split(b"/"))
        return False


async def _answered(handler: Handler, request: Request) -> None:
    try:
        if request.method != "POST":
            raise MethodNotAllowed
        await handler(request)
    except CallerGone:
        pass  # nobody is there
    except GatewayError as error:
        _refuse(request, error)
    except Exception as error:  # noqa: BLE001 - told without its traceback
        _refuse(request, unexpected(request.method, request.path, error))


def _refuse(request: Request, error: GatewayError) -> None:
    request.answer(answer_of(request.path, error), status=error.status, headers=error.headers)
