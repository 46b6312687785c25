"""Which sandbox a run gets, said before it starts: nobody is isolated less than they believe without a word."""

import os
import urllib.request
from http.client import HTTPException

import msgspec

from ridges.cli.system import manager_urls, say

PROCESS_WARNING = (
    "WARNING: the sandbox 'process' isolates NOTHING: agent and tests run as you, with your files and your network. "
    "Use it only for agents you wrote yourself."
)
ANSWER_S = 10.0


class Technology(msgspec.Struct, frozen=True, kw_only=True):
    """What a sandbox-manager says about a sandbox technology."""

    name: str
    works: bool
    reason: str | None
    remedy: str | None


def tell_sandbox(requested: str = "auto") -> None:
    """Says which sandbox a run gets, why it is not the better one, and loudly when it is none."""
    if requested != "auto":
        _tell(requested, f"sandbox: {requested}")
        return
    for url in manager_urls():
        if chosen := first_fit(technologies(url)):
            _tell(*chosen)
            return


def _tell(name: str, words: str) -> None:
    say(words)
    if name == "process":
        say(PROCESS_WARNING)


def technologies(url: str) -> list[Technology]:
    """What a run that asks for nothing particular may get at this manager, best first; empty when it does not say."""
    request = urllib.request.Request(f"{url}/v1/technologies")  # noqa: S310 - as configured
    if token := os.environ.get("RIDGES_API_TOKEN"):
        request.add_header("Authorization", f"Bearer {token}")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=ANSWER_S) as response:
            return msgspec.json.decode(response.read(), type=list[Technology])
    except (OSError, HTTPException, msgspec.MsgspecError):
        return []


def first_fit(candidates: list[Technology]) -> tuple[str, str] | None:
    """The first that works and the words for it, with what is wrong with those before it; null: the run will tell."""
    wrong: list[str] = []
    for each in candidates:
        if each.works:
            return each.name, f"sandbox: {each.name}" + (f", because {'; '.join(wrong)}" if wrong else "")
        wrong.append("; ".join(words for words in (each.reason, each.remedy) if words))
    return None
