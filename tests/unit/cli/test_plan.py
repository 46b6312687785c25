"""What the embedded system is made of, where the machine gives it no room."""

import pytest

from ridges.cli.config import Config
from ridges.cli.embedded import plan
from ridges.cli.embedded.state import StateDir
from ridges.cli.errors import CliError, Exit


def test_a_machine_without_a_free_port_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "port_is_free", lambda _: False)
    with pytest.raises(CliError, match="no port from 10000 to 31999 is free for nats") as told:
        plan.plan_system(Config(), StateDir(tmp_path))
    assert told.value.exit_code == Exit.OUR_FAULT
