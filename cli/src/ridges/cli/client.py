"""The ledger's HTTP API, as the command line uses it."""

import json
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from http.client import HTTPException, HTTPResponse
from typing import TypeVar

import msgspec

from ridges.cli.errors import CliError, Exit, UsageError
from ridges.contracts import views
from ridges.contracts.requests import RequestRun

T = TypeVar("T")
PATIENCE_S = 30.0


class LedgerClient:
    """Blocking calls. A ledger that is away is asked again for half a minute: it may be restarting."""

    def __init__(self, url: str, token: str | None = None) -> None:
        self._url = url.rstrip("/")
        self._token = token or os.environ.get("RIDGES_API_TOKEN")

    def request_run(self, request: RequestRun) -> views.RunDetail:
        return self._decode(self._call("POST", "/v1/runs", msgspec.json.encode(request)), views.RunDetail)

    def run(self, run_id: str) -> views.RunDetail:
        return self._decode(self._call("GET", f"/v1/runs/{urllib.parse.quote(run_id)}"), views.RunDetail)

    def runs(self, **filters: str | int | None) -> views.RunList:
        return self._decode(self._call("GET", "/v1/runs?" + _query(filters)), views.RunList)

    def events(self, run_id: str) -> list[views.EventRow]:
        return self._decode(self._call("GET", f"/v1/runs/{urllib.parse.quote(run_id)}/events"), list[views.EventRow])

    def log(self, run_id: str) -> str:
        return self._call("GET", f"/v1/runs/{urllib.parse.quote(run_id)}/log").decode("utf-8", "replace")

    def cancel(self, run_id: str, reason: str) -> views.RunDetail:
        body = msgspec.json.encode({"reason": reason})
        return self._decode(self._call("POST", f"/v1/runs/{urllib.parse.quote(run_id)}/cancel", body), views.RunDetail)

    def costs(self, by: str) -> views.CostReport:
        return self._decode(self._call("GET", "/v1/costs?" + _query({"by": by})), views.CostReport)

    def problems(self) -> list[views.ProblemRow]:
        return self._decode(self._call("GET", "/v1/problems"), list[views.ProblemRow])

    def refusals(self) -> list[views.Refusal]:
        return self._decode(self._call("GET", "/v1/refusals"), list[views.Refusal])

    def parked(self) -> list[dict[str, object]]:
        return self._decode(self._call("GET", "/v1/parked"), list[dict[str, object]])

    def follow(self, run_id: str) -> Iterator[views.RunRow]:
        """The run after each of its events, until it ended. Reconnects when the stream breaks."""
        give_up = time.monotonic() + PATIENCE_S
        while True:
            try:
                for row in self._stream(f"/v1/runs/{urllib.parse.quote(run_id)}/stream"):
                    give_up = time.monotonic() + PATIENCE_S
                    yield row
                    if row.state in ("finished", "error"):
                        return
            except (OSError, HTTPException) as error:
                if time.monotonic() > give_up:
                    raise _away(self._url, error) from error
            time.sleep(0.2)

    def _stream(self, path: str) -> Iterator[views.RunRow]:
        with self._open("GET", path, None, timeout_s=60) as response:
            kind = ""
            for line in response:
                text = line.decode("utf-8", "replace").rstrip("\r\n")
                if text.startswith("event:"):
                    kind = text[6:].strip()
                elif text.startswith("data:") and kind == "run":
                    yield self._decode(text[5:].strip().encode(), views.RunRow)

    def _call(self, method: str, path: str, body: bytes | None = None) -> bytes:
        give_up = time.monotonic() + PATIENCE_S
        while True:
            try:
                with self._open(method, path, body, timeout_s=60) as response:
                    return response.read()
            except urllib.error.HTTPError as error:
                answer = _error_of(error)
                if error.code != 503 or time.monotonic() > give_up:
                    raise answer from error
            except (OSError, HTTPException) as error:
                if time.monotonic() > give_up:
                    raise _away(self._url, error) from error
            time.sleep(0.25)

    def _open(self, method: str, path: str, body: bytes | None, timeout_s: float) -> HTTPResponse:
        headers = {"Content-Type": "application/json"} if body is not None else {}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        request = urllib.request.Request(self._url + path, data=body, method=method, headers=headers)  # noqa: S310
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        response: HTTPResponse = opener.open(request, timeout=timeout_s)
        return response

    def _decode(self, content: bytes, kind: type[T]) -> T:
        try:
            return msgspec.json.decode(content, type=kind)
        except msgspec.MsgspecError as error:
            raise CliError(
                f"{self._url} answered something unexpected ({error}); are both sides the same release?"
            ) from error


def _query(fields: dict[str, str | int | None]) -> str:
    return urllib.parse.urlencode({name: value for name, value in fields.items() if value is not None})


def _error_of(error: urllib.error.HTTPError) -> CliError:
    body = error.read()
    try:
        detail = str(json.loads(body)["detail"])
    except (ValueError, KeyError, TypeError):
        detail = body[:500].decode("utf-8", "replace") or str(error)
    if error.code < 500:
        return UsageError(detail)
    return CliError(f"the ledger failed ({error.code}): {detail}", Exit.OUR_FAULT)


def _away(url: str, error: Exception) -> CliError:
    return CliError(f"no ledger answers at {url} ({error}); start the system with `ridges up` or set RIDGES_LEDGER_URL")
