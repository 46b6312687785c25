"""`ridges ledger migrate` in a user's folder."""

import pytest
from nats_process import NatsServer

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def new(tmp_path):
    server = NatsServer(tmp_path / "new").start()
    yield server
    server.kill9()


def test_a_folder_without_a_log_says_so(project, new):
    refused = project.ridges("ledger", "migrate", "--to", new.url)
    assert refused.code == 3
    assert "there is no log to move" in refused.stderr
    assert project.ridges("ledger", "migrate").code == 2


def test_the_log_of_the_embedded_system_moves_and_the_folder_says_where_it_is(running_project, new):
    project = running_project
    assert project.ridges("ledger", "prices", "--publish", "vendored").code == 0
    proof = {"RIDGES_TARGET_NATS_MONITOR_URL": new.monitor_url}
    assert project.ridges("down").code == 0
    stays = project.ridges("ledger", "migrate", "--to", new.url, "--abort", "--json", env=proof)
    assert (stays.code, stays.document["moved_to"]) == (0, None), stays
    assert project.ridges("up").code == 0, "nothing had begun, nothing has changed"
    moved = project.ridges("ledger", "migrate", "--to", new.url, "--json", env=proof)
    assert (moved.code, moved.document["moved_to"]) == (0, new.url), moved
    assert moved.document["events"] > 0
    assert moved.document["digest"].startswith("sha256:")
    assert "migrate: copying" in moved.stderr
    project.ridges("down")
    refused = project.ridges("up", timeout_s=120)
    assert refused.code == 3
    assert f"has moved to {new.url}" in refused.stderr
    again = project.ridges("ledger", "migrate", "--to", new.url, env=proof)
    assert again.code == 0, "what has moved already is no error"
    assert "1. start every service with RIDGES_NATS_URL=" in again.stderr
