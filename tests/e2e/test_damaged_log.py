"""A bit turns in the log of a folder: the command line says so, and following its words brings everything back."""

import shutil
import subprocess
from contextlib import suppress

import pytest
from bit_flips import blocks, flip
from e2e.project import Project

pytestmark = pytest.mark.timeout(300)
RUN = ("run", "-a", "examples/agents/llm_agent.py", "-p", "create-energy-bill", "--sandbox", "bubblewrap", "--json")
ADVICE = "ridges ledger restore --into-new"


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory):
    """A project that is down; the first of its two runs is archived."""
    project = Project(tmp_path_factory.mktemp("damage"))
    try:
        assert project.ridges(*RUN).code == 0
        archived = project.ridges("ledger", "archive", "--json")
        assert archived.code == 0, archived
        assert project.ridges(*RUN).code == 0
        told = project.ridges("runs", "--json")
        assert told.code == 0, told
        shutil.copytree(project.folder / ".ridges", project.folder / "kept", symlinks=True)
        yield project, int(str(archived.document["events"])), told.stdout
    finally:
        project.ridges("down")
        assert project.wait_for_nothing_left() == []


@pytest.fixture
def damaged(two_runs):
    project, archived, told = two_runs
    shutil.rmtree(project.folder / ".ridges")
    shutil.copytree(project.folder / "kept", project.folder / ".ridges", symlinks=True)
    yield project, archived, told
    project.ridges("down")


def assert_whole(project, told):
    """As it was before, proved, and new runs come through."""
    assert project.ridges("up").code == 0
    verified = project.ridges("ledger", "verify", "--json")
    assert (verified.code, verified.document["findings"]) == (0, []), verified
    assert project.ridges("runs", "--json").stdout == told
    assert project.ridges(*RUN).code == 0
    assert project.ridges("down").code == 0


@pytest.mark.parametrize("behind", [-5, 5], ids=["archived", "newer than the archive"])
def test_a_length(damaged, behind):
    """nats-server cuts off everything behind it; `ridges up` says so at once and nothing goes on with the rest."""
    project, archived, told = damaged
    store = project.folder / ".ridges" / "nats"
    whole = blocks(store)[0].stat().st_size
    flip(store, archived + behind, "length")
    up = project.ridges("up")
    assert (up.code, "cut off whole events" in up.stderr, ADVICE in up.stderr) == (3, True, True), up
    assert blocks(store)[0].stat().st_size < whole, "the copy is needed"
    for command in (("up",), ("ledger", "verify")):
        refused = project.ridges(*command)
        assert (refused.code, ADVICE in refused.stderr) == (3, True), refused
    restored = project.ridges("ledger", "restore", "--into-new", "--json")
    if behind < 0:
        assert restored.code == 0, restored
        assert_whole(project, told)
    else:
        [lost] = restored.document["findings"]
        assert (restored.code, lost["kind"], lost["position"]) == (1, "lost", archived + behind)
        assert project.ridges("up").code == 0
        verified = project.ridges("ledger", "verify", "--json").document
        assert {finding["kind"] for finding in verified["findings"]} <= {"order", "open reservation"}


def test_a_payload(damaged):
    """nats-server goes on without the event: `verify` and `restore` name its position and the way on."""
    project, archived, told = damaged
    flip(project.folder / ".ridges" / "nats", archived - 5, "payload")
    assert project.ridges("up").code == 0
    for command in ("verify", "restore"):
        found = project.ridges("ledger", command)
        assert (found.code, f"{archived - 5}" in found.stdout, ADVICE in found.stdout) == (1, True, True), found
    running = project.ridges("ledger", "restore", "--into-new")
    assert (running.code, "`ridges down` stops it" in running.stderr) == (3, True), running
    assert project.ridges("down").code == 0
    restored = project.ridges("ledger", "restore", "--into-new")
    assert restored.code == 0, restored
    assert "is kept in" in restored.stderr
    assert_whole(project, told)


def test_a_restore_that_is_interrupted_goes_on(damaged):
    project, archived, told = damaged
    flip(project.folder / ".ridges" / "nats", archived - 5, "payload")
    for delay_s in (0.5, 0.7, 0.9):
        command = project.start("ledger", "restore", "--into-new")
        with suppress(subprocess.TimeoutExpired):
            command.wait(delay_s)
        command.kill()
        command.wait()
        assert project.wait_for_nothing_left() == []
    if (project.folder / ".ridges" / "restoring").exists():
        refused = project.ridges("up")
        assert (refused.code, "restore of the log was interrupted" in refused.stderr) == (3, True), refused
    done = project.ridges("ledger", "restore", "--into-new")
    assert done.code == 0, done
    assert_whole(project, told)
