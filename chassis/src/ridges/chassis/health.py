"""``/livez``, ``/readyz`` and ``/metrics`` for every service."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from litestar import MediaType, Response, get
from litestar.handlers import HTTPRouteHandler
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

CHECK_TIMEOUT_S = 2.0

Check = Callable[[], Awaitable[None]]
"""Returns when the dependency is fine, raises with a message that says what is wrong and how to mend it."""


def health_handlers(service: str, checks: Mapping[str, Check]) -> list[HTTPRouteHandler]:
    """The three routes. ``/readyz`` runs all checks at once, each for at most two seconds."""

    @get("/livez", include_in_schema=False)
    async def livez() -> dict[str, str]:
        return {"status": "ok", "service": service}

    @get("/readyz", include_in_schema=False)
    async def readyz() -> Response[dict[str, object]]:
        problems = await asyncio.gather(*(_problem(check) for check in checks.values()))
        failing = {name: problem for name, problem in zip(checks, problems, strict=True) if problem is not None}
        if failing:
            return Response({"status": "not ready", "failing": failing}, status_code=503)
        return Response({"status": "ready"})

    @get("/metrics", include_in_schema=False, media_type=MediaType.TEXT)
    async def metrics() -> Response[bytes]:
        return Response(generate_latest(), headers={"content-type": CONTENT_TYPE_LATEST})

    return [livez, readyz, metrics]


async def _problem(check: Check) -> str | None:
    try:
        async with asyncio.timeout(CHECK_TIMEOUT_S):
            await check()
    except TimeoutError:
        return f"no answer within {CHECK_TIMEOUT_S:g} s"
    except Exception as error:  # noqa: BLE001 - whatever it is, it is why the service is not ready
        return str(error) or type(error).__name__
    return None
