"""Progress where there is no terminal: a line for each phase, the first one included."""

import msgspec
from unit.cli.samples import run_detail

from ridges.cli.progress import RunsProgress
from ridges.contracts.lifecycle import RunState


def test_a_run_that_is_under_way_already_says_where_it_is(capsys):
    run = run_detail(state=RunState.RUNNING_AGENT)
    with RunsProgress([run]) as progress:
        progress.update(run)
        progress.update(msgspec.structs.replace(run, state=RunState.RUNNING_EVAL))
    lines = capsys.readouterr().err.splitlines()
    assert [line.split("fix-a-thing")[1].strip() for line in lines] == ["agent working", "hidden tests"]
