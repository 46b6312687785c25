"""The disk of a running system fills up: it says so, loses nothing that it took, and goes on when there is room."""

import asyncio
import json
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nats
import nats.errors
import nats.js.errors
import pytest
from e2e.project import Project
from small_disk import SmallDisk, small_disk  # noqa: F401  # a fixture

pytestmark = pytest.mark.timeout(300)
AGENT = "def agent_main(problem): return ''\n"
IN_THE_LOG = re.compile("the log has your request for run ([0-9a-f-]{36}) ")


@pytest.fixture
def system(tmp_path: Path, small_disk: SmallDisk) -> Iterator[Project]:  # noqa: F811
    """`ridges up` with all its state on the small disk."""
    project = Project(tmp_path)
    project.env["RIDGES_HOME"] = str(small_disk.path / ".ridges")
    project.env["RIDGES_MIN_FREE_BYTES"] = "0"
    up = project.ridges("up")
    assert up.code == 0, up
    yield project
    assert project.ridges("down").code == 0
    assert project.wait_for_nothing_left() == []


def ask_for_a_run(ledger_url: str, name: str, agent: str = AGENT) -> tuple[int, dict[str, Any]]:
    body = {"problem": "create-energy-bill", "agent_source": agent, "agent_name": name}
    request = urllib.request.Request(
        f"{ledger_url}/v1/runs", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def eventually(what: Callable[[], Any], timeout_s: float = 90) -> Any:
    give_up = time.monotonic() + timeout_s
    while not (found := what()) and time.monotonic() < give_up:
        time.sleep(0.5)
    return found


def test_a_full_disk_is_told_and_nothing_that_was_taken_is_lost(
    system: Project,
    small_disk: SmallDisk,  # noqa: F811
) -> None:
    state = json.loads((small_disk.path / ".ridges" / "state.json").read_text())
    ledger = state["ledger_url"]
    taken = []
    for number in range(3):
        status, answer = ask_for_a_run(ledger, f"before-{number}.py")
        assert status == 201, answer
        taken.append(answer["run_id"])

    small_disk.fill()
    status, answer = ask_for_a_run(ledger, "while.py")
    while taken_unseen := IN_THE_LOG.search(answer["detail"]):  # the last page of the log's file had room for it
        assert status == 503
        taken.append(taken_unseen[1])
        status, answer = ask_for_a_run(ledger, "while.py")
    assert status == 503
    assert "no space left on device" in answer["detail"]
    assert "make room on its disk" in answer["detail"]
    status, answer = ask_for_a_run(ledger, "while.py", AGENT + "# an agent that no blob holds yet\n")
    assert (status, answer["title"]) == (503, "The blob store cannot be used"), answer
    assert answer["detail"].startswith("No space left on device; mend it")
    assert publish_request(state["nats_url"]) is None, "taken, although it could not be kept"
    findings = {finding["name"]: finding for finding in json.loads(system.ridges("doctor", "--json").stdout)}
    assert findings["disk"]["status"] == "problem"
    assert "what to remove" in findings["disk"]["remedy"]

    small_disk.make_room()
    taken.append(eventually(lambda: run_id_of(ask_for_a_run(ledger, "after.py"))))
    taken.append(eventually(lambda: publish_request(state["nats_url"])))
    assert None not in taken, (small_disk.path / ".ridges" / "logs" / "supervisor.log").read_text()

    def listed() -> bool:
        with urllib.request.urlopen(f"{ledger}/v1/runs", timeout=30) as reply:
            return {row["run_id"] for row in json.load(reply)["runs"]} >= set(taken)

    assert eventually(listed)


def run_id_of(answer: tuple[int, dict[str, Any]]) -> str | None:
    return str(answer[1]["run_id"]) if answer[0] == 201 else None


def publish_request(nats_url: str) -> str | None:
    """The id of a run asked for on NATS; None where the log did not take the request."""

    async def publish() -> str | None:
        client = await nats.connect(nats_url)
        try:
            inbox = client.new_inbox()
            answers = await client.subscribe(inbox)
            content = json.dumps({"problem": "create-energy-bill", "agent_source": AGENT}).encode()
            await client.jetstream().publish("in.RunRequested", content, headers={"Ridges-Reply-To": inbox}, timeout=3)
            return str(json.loads((await answers.next_msg(timeout=30)).data)["run_id"])
        except (nats.errors.Error, nats.js.errors.APIError):
            return None
        finally:
            await client.close()

    return asyncio.run(publish())
