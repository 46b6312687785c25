"""A process that outlived its sandbox (bwrap was killed while it started) is gone after the next sweep."""

import os
import subprocess
import time
from pathlib import Path

import pytest

from ridges.sandbox_manager.host_uids import host_uid, kill_orphans

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="sandboxes have host uids of their own only under root")

LOCKS = Path("/run/ridges/uids")
"""The real one: a uid that is free in another folder may belong to a sandbox that runs."""


def sleeper(uid: int) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(["sleep", "60"], user=uid, group=uid)


def test_the_sweep_kills_orphans_and_spares_sandboxes_that_run() -> None:
    with host_uid(LOCKS) as held:
        assert held is not None
        living = sleeper(held)
        with host_uid(LOCKS) as released:
            assert released is not None
            orphan = sleeper(released)
        try:
            time.sleep(0.1)
            assert kill_orphans(LOCKS) >= 1
            assert orphan.wait(timeout=5) == -9
            assert living.poll() is None
        finally:
            for process in (living, orphan):
                process.kill()
                process.wait()
