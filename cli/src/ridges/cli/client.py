"""The ledger's HTTP API, as the command line uses it."""

import json
import os
import sys
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
from ridges.contracts.lifecycle import ENDED
from ridges.contracts.requests import RequestRun

T = TypeVar("T")

# Made here and not when first needed: clients are used from threads, and msgspec shows a thread what another one has
# half built of a type, which ends the process.
_detail = msgspec.json.Decoder(views.RunDetail)
_row = msgspec.json.Decoder(views.RunRow)
_list = msgspec.json.Decoder(views.RunList)
_events = msgspec.json.Decoder(list[views.EventRow])
_costs = msgspec.json.Decoder(views.CostReport)
_problems = msgspec.json.Decoder(list[views.ProblemRow])
_refusals = msgspec.json.Decoder(list[views.Refusal])
_price_list = msgspec.json.Decoder(views.PriceListRow)
_price_lists = msgspec.json.Decoder(list[views.PriceListRow])
_repriced = msgspec.json.Decoder(views.RepriceReport)
_progress = msgspec.json.Decoder(views.PassProgress)
_result = msgspec.json.Decoder(views.PassResult)
_parked = msgspec.json.Decoder(list[dict[str, object]])

PATIENCE_S = 30.0
PASS_TIMEOUT_S = 600.0
"""Longest silence of a pass over the log: blobs are read without a word."""
SILENT_S = 2.0
"""After which the user hears why nothing happens."""


class LedgerClient:
    """Blocking calls. A ledger that is away is asked again for half a minute: it may be restarting."""

    def __init__(self, url: str, token: str | None = None, patience_s: float = PATIENCE_S) -> None:
        """Asks nothing yet.

        Raises:
            UsageError: not an HTTP address.

        """
        if not url.startswith(("http://", "https://")):
            raise UsageError(f"{url!r} is no address of a ledger; RIDGES_LEDGER_URL is like http://127.0.0.1:8100")
        self._url = url.rstrip("/")
        self._token = token or os.environ.get("RIDGES_API_TOKEN")
        self._patience_s = patience_s

    def hurried(self, patience_s: float) -> "LedgerClient":
        """The same ledger, given up sooner."""
        return LedgerClient(self._url, self._token, patience_s)

    def request_run(self, request: RequestRun) -> views.RunDetail:
        return self._decode(self._call("POST", "/v1/runs", msgspec.json.encode(request)), _detail)

    def run(self, run_id: str) -> views.RunDetail:
        return self._decode(self._call("GET", _path_of(run_id)), _detail)

    def runs(self, **filters: str | int | None) -> views.RunList:
        return self._decode(self._call("GET", "/v1/runs?" + _query(filters)), _list)

    def events(self, run_id: str) -> list[views.EventRow]:
        return self._decode(self._call("GET", f"{_path_of(run_id)}/events"), _events)

    def log(self, run_id: str, attempt: int | None = None) -> str:
        query = "" if attempt is None else f"?attempt={attempt}"
        return self._call("GET", f"{_path_of(run_id)}/log{query}").decode("utf-8", "replace")

    def patch(self, run_id: str, attempt: int) -> str:
        return self._call("GET", f"{_path_of(run_id)}/patch?attempt={attempt}").decode("utf-8", "replace")

    def cancel(self, run_id: str, reason: str) -> views.RunDetail:
        body = msgspec.json.encode({"reason": reason})
        return self._decode(self._call("POST", f"{_path_of(run_id)}/cancel", body), _detail)

    def costs(self, by: str) -> views.CostReport:
        return self._decode(self._call("GET", "/v1/costs?" + _query({"by": by})), _costs)

    def problems(self) -> list[views.ProblemRow]:
        return self._decode(self._call("GET", "/v1/problems"), _problems)

    def refusals(self) -> list[views.Refusal]:
        return self._decode(self._call("GET", "/v1/refusals"), _refusals)

    def parked(self) -> list[dict[str, object]]:
        return self._decode(self._call("GET", "/v1/parked"), _parked)

    def price_lists(self) -> list[views.PriceListRow]:
        return self._decode(self._call("GET", "/v1/price-lists"), _price_lists)

    def publish_price_list(self, toml: str) -> views.PriceListRow:
        return self._decode(self._call("POST", "/v1/price-lists", toml.encode()), _price_list)

    def reprice(self, price_list: str, toml: str | None, since: str | None) -> views.RepriceReport:
        """With the prices in the TOML text, else with those of a published list."""
        if toml is not None:
            answer = self._call("POST", "/v1/reprice?" + _query({"since": since}), toml.encode())
        else:
            answer = self._call("GET", "/v1/reprice?" + _query({"price_list": price_list, "since": since}))
        return self._decode(answer, _repriced)

    def settle(self, record: dict[str, object]) -> int:
        """Settle a call from its provider's record; the position of the settlement in the log."""
        answer = self._call("POST", "/v1/settlements", msgspec.json.encode(record))
        return msgspec.json.decode(answer, type=dict[str, int])["position"]

    def run_pass(self, path: str) -> Iterator[views.PassProgress | views.PassResult]:
        """How far a pass over the log is, then its result."""
        try:
            with self._open("POST", path, b"", timeout_s=PASS_TIMEOUT_S) as response:
                kind = ""
                for line in response:
                    text = line.decode("utf-8", "replace").rstrip("\r\n")
                    if text.startswith("event:"):
                        kind = text[6:].strip()
                    elif text.startswith("data:") and kind == "progress":
                        yield self._decode(text[5:].strip().encode(), _progress)
                    elif text.startswith("data:") and kind == "result":
                        yield self._decode(text[5:].strip().encode(), _result)
                        return
        except urllib.error.HTTPError as error:
            raise _error_of(error) from error
        except (OSError, HTTPException) as error:
            raise CliError(f"the ledger at {self._url} went away ({error}); start it and run this again") from error
        raise CliError("the ledger ended before the pass did; nothing was changed, run it again")

    def follow(self, run_id: str) -> Iterator[views.RunRow]:
        """The run after each of its events, until it ended. Reconnects when the stream breaks."""
        waiting = _Waiting(self._url, self._patience_s)
        while True:
            try:
                for row in self._stream(f"{_path_of(run_id)}/stream"):
                    waiting = _Waiting(self._url, self._patience_s)
                    yield row
                    if row.state in ENDED:
                        return
            except urllib.error.HTTPError as error:
                if error.code != 503:
                    raise _error_of(error) from error
                waiting.after(error)
            except (OSError, HTTPException) as error:
                waiting.after(error)
            time.sleep(0.2)

    def _stream(self, path: str) -> Iterator[views.RunRow]:
        with self._open("GET", path, None, timeout_s=60) as response:
            kind = ""
            for line in response:
                text = line.decode("utf-8", "replace").rstrip("\r\n")
                if text.startswith("event:"):
                    kind = text[6:].strip()
                elif text.startswith("data:") and kind == "run":
                    yield self._decode(text[5:].strip().encode(), _row)

    def _call(self, method: str, path: str, body: bytes | None = None) -> bytes:
        waiting = _Waiting(self._url, self._patience_s)
        while True:
            try:
                with self._open(method, path, body, timeout_s=60) as response:
                    return response.read()
            except urllib.error.HTTPError as error:
                answer = _error_of(error)
                if error.code != 503 or waiting.is_over:
                    raise answer from error
                waiting.after(answer)
            except (OSError, HTTPException) as error:
                waiting.after(error)
            time.sleep(0.25)

    def _open(self, method: str, path: str, body: bytes | None, timeout_s: float) -> HTTPResponse:
        headers = {"Content-Type": "application/json"} if body is not None else {}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        request = urllib.request.Request(self._url + path, data=body, method=method, headers=headers)  # noqa: S310
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        response: HTTPResponse = opener.open(request, timeout=timeout_s)
        return response

    def _decode(self, content: bytes, decoder: msgspec.json.Decoder[T]) -> T:
        try:
            return decoder.decode(content)
        except msgspec.MsgspecError as error:
            raise CliError(
                f"{self._url} answered something unexpected ({error}); are both sides the same release?"
            ) from error


class _Waiting:
    """For a ledger that does not answer: told once, and not for ever."""

    def __init__(self, url: str, patience_s: float) -> None:
        self._url, self._patience_s = url, patience_s
        self._since = time.monotonic()
        self._said = False

    @property
    def is_over(self) -> bool:
        return time.monotonic() - self._since > self._patience_s

    def after(self, error: Exception) -> None:
        """Returns when it is worth another try.

        Raises:
            CliError: it is not.

        """
        if self.is_over:
            raise CliError(
                f"no ledger answers at {self._url} ({error}); start one with `ridges up`, or set RIDGES_LEDGER_URL"
            ) from error
        if not self._said and time.monotonic() - self._since > SILENT_S:
            self._said = True
            print(f"no answer from {self._url} ({error}); trying for {self._patience_s:.0f} s …", file=sys.stderr)


def _path_of(run_id: str) -> str:
    """The path of a run.

    Raises:
        UsageError: the id is empty, which would be the path of all runs.

    """
    if not run_id.strip():
        raise UsageError("the run id is empty; `ridges runs` lists them")
    return f"/v1/runs/{urllib.parse.quote(run_id, safe='')}"


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
