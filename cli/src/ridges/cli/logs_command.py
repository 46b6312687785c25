"""``ridges logs``: an ended agent's log from the ledger, a running one's from the sandbox-manager that runs it."""

import json
import os
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from http.client import HTTPException

from ridges.cli import render
from ridges.cli.client import LedgerClient
from ridges.cli.errors import CliError, UsageError
from ridges.cli.system import MANAGERS_VARIABLE, manager_urls, say, system_for_reading
from ridges.contracts.lifecycle import RunState
from ridges.contracts.views import RunDetail

AGENT_NOT_ENDED = (RunState.PENDING, RunState.INITIALIZING_AGENT, RunState.RUNNING_AGENT)
POLL_S = 10.0
PAUSE_S = 0.5


def show_log(run: str, follow: bool, attempt: int | None = None) -> None:
    """Prints the log, with ``follow`` until the agent ended; or that of an attempt that is over."""
    with system_for_reading() as client:
        if attempt is not None:
            render.strangers_text(client.log(run, attempt))
            return
        detail = client.run(run)
        told = _tell_live(client, detail, follow) if detail.state in AGENT_NOT_ENDED else ""
        detail = client.run(detail.run_id)
        if detail.state not in AGENT_NOT_ENDED and (follow or not told):
            _tell_rest(client.log(detail.run_id), told)


def _tell_live(client: LedgerClient, detail: RunDetail, follow: bool) -> str:
    """What was printed of the live log."""
    managers = _managers()
    told, position, manager = "", 0, None
    while True:
        manager, piece = _ask(managers if manager is None else [manager], detail.run_id, position, follow)
        if piece is None:
            if not follow:
                say(f"run {detail.run_id} has no live log yet ({detail.state}); try --follow")
                return told
            if client.run(detail.run_id).state not in AGENT_NOT_ENDED:
                return told
            position = position if manager else 0
            time.sleep(PAUSE_S)
            continue
        if piece["missed_bytes"]:
            say(f"… {piece['missed_bytes']} earlier bytes are no longer in the live log …")
        text = str(piece["text"])
        render.strangers_text(text)
        sys.stdout.flush()
        told, position = told + text, int(str(piece["next"]))
        if not follow:
            return told


def _tell_rest(whole: str, told: str) -> None:
    if whole.startswith(told):
        render.strangers_text(whole[len(told) :])
    else:
        say("… the live log had gaps; `ridges logs` without --follow prints all of it …")


def _managers() -> list[str]:
    """Addresses of the managers to ask.

    Raises:
        UsageError: none is known.

    """
    if urls := manager_urls():
        return urls
    raise UsageError(
        f"the run is not over, and live logs come from its sandbox-manager: set {MANAGERS_VARIABLE} "
        "(http://host:8102, several with commas)"
    )


def _ask(managers: list[str], run_id: str, position: int, wait: bool) -> tuple[str | None, dict[str, object] | None]:
    """The manager that runs it, and what it has after the position."""
    for url in managers:
        query = urllib.parse.urlencode({"after": position, "wait_s": POLL_S if wait else 0})
        request = urllib.request.Request(f"{url}/v1/sandboxes/{run_id}/log?{query}")  # noqa: S310 - as configured
        if token := os.environ.get("RIDGES_API_TOKEN"):
            request.add_header("Authorization", f"Bearer {token}")
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=POLL_S + 10) as response:
                piece: dict[str, object] = json.load(response)
                return url, piece
        except urllib.error.HTTPError as error:
            if error.code != 404:
                raise CliError(f"{url} refuses the live log ({error.code}): {error.read(500).decode()}") from error
        except (OSError, HTTPException, ValueError) as error:
            if not wait:
                raise CliError(f"no sandbox-manager answers at {url} ({error}); set {MANAGERS_VARIABLE}") from error
    return None, None
