"""The life of runs in the tables."""

import sqlite3

import msgspec
import pytest
from unit.ledger.samples import AGENT, OTHER_RUN, RUN, Author, recorded

from ridges.contracts import events as ev
from ridges.contracts.blobs import digest_of, ref_to
from ridges.contracts.faults import Cause, Fault
from ridges.contracts.lifecycle import RunState
from ridges.ledger.errors import AmbiguousRun, LogGap, RequestRefused, UnknownRun
from ridges.ledger.projections.apply import Projections, opened
from ridges.ledger.projections.runs import COLUMNS
from ridges.ledger.projections.schema import VERSION, open_projections, open_reader
from ridges.ledger.queries import Queries, RunFilter, run_detail


@pytest.fixture
def tables(tmp_path):
    with opened(tmp_path / "p.sqlite") as projections:
        yield projections


@pytest.fixture
def queries(tables, tmp_path):
    reader = Queries(open_reader(tmp_path / "p.sqlite"))
    yield reader
    reader.close()


@pytest.fixture
def a():
    return Author()


def shown(queries, run_id=RUN):
    return run_detail(queries.record(run_id), None)


def test_the_record_has_the_columns_of_the_table(tables):
    columns = [row[1] for row in tables._connection.execute("PRAGMA table_info(runs)")]
    assert columns == list(COLUMNS)


def test_a_resolved_run_from_request_to_verdict(tables, queries, a):
    events = [
        a.requested(batch_id="b1", model="m"),
        a.started(),
        a.reserved(),
        a.made(),
        a.patched(patch=b"the patch"),
        a.event(
            ev.EvaluationRequested,
            evaluation_id="e1",
            attempt=1,
            bundle=ref_to(b"", "application/x-tar"),
            command=("true",),
            outputs=(),
            limits={},
            timeout_s=1,
            mended=("line ends",),
        ),
        a.event(ev.EvaluationStarted, evaluation_id="e1", manager="m1", sandbox="bubblewrap"),
        a.tested(statuses=("pass", "skip", "pass"), log=ref_to(b"pytest", "text/plain"), flagged=("conftest.py",)),
    ]
    states = []
    for position, event in enumerate(events, 1):
        tables.apply(recorded(event, after=position - 1))
        states.append(shown(queries).state.value)
    assert states == [
        "pending",
        "running_agent",
        "running_agent",
        "running_agent",
        "initializing_eval",
        "initializing_eval",
        "running_eval",
        "finished",
    ]
    run = shown(queries)
    assert (run.verdict, run.cause, run.fault, run.code) == ("resolved", None, None, None)
    assert (run.tests_passed, run.tests_total, run.mended, run.flagged) == (2, 3, ("line ends",), ("conftest.py",))
    assert (run.agent, run.agent_name, run.batch_id, run.model) == (digest_of(AGENT), "agent.py", "b1", "m")
    assert (run.patch_digest, run.evaluation_log_digest) == (digest_of(b"the patch"), digest_of(b"pytest"))
    assert run.requested_at == events[0].time
    assert run.started_at == events[1].time
    assert run.finished_at == events[-1].time
    assert (run.sandbox, run.attempt, run.position) == ("bubblewrap", 1, 8)


def test_a_failed_agent_is_unresolved_with_cause_fault_and_public_code(tables, queries, a):
    failed = a.event(ev.AgentFailed, attempt=1, cause=Cause.AGENT_RAISED, detail="boom", log=ref_to(b"t", "text/plain"))
    tables.apply(recorded(a.requested(), a.started(), failed))
    run = shown(queries)
    assert (run.state, run.verdict, run.cause, run.fault, run.code) == (
        RunState.ERROR,
        "unresolved",
        Cause.AGENT_RAISED,
        Fault.AGENT,
        1000,
    )
    assert (run.detail, run.log_digest) == ("boom", digest_of(b"t"))


def test_what_the_platform_broke_has_no_verdict(tables, queries, a):
    failed = a.event(ev.AgentFailed, attempt=0, cause=Cause.SANDBOX_UNAVAILABLE, detail="no sandbox")
    tables.apply(recorded(a.requested(), failed))
    assert (shown(queries).verdict, shown(queries).fault) == (None, Fault.PLATFORM)


def test_a_new_attempt_replaces_what_the_lost_one_left(tables, queries, a):
    tables.apply(
        recorded(
            a.requested(),
            a.started(attempt=1),
            a.started(attempt=2),
            a.patched(attempt=1, patch=b"lost"),
            a.patched(attempt=2, patch=b"kept"),
        )
    )
    run = shown(queries)
    assert (run.attempt, run.patch_digest) == (2, digest_of(b"kept"))


def test_a_cancelled_run_keeps_the_log_that_comes_after_the_cancel(tables, queries, a):
    cancelled = a.event(ev.RunCancelled, reason="enough")
    late = a.event(ev.AgentFailed, attempt=1, cause=Cause.CANCELLED, detail="", log=ref_to(b"half", "text/plain"))
    tables.apply(recorded(a.requested(), a.started(), cancelled, late))
    run = shown(queries)
    assert (run.cause, run.detail, run.log_digest) == (Cause.CANCELLED, "enough", digest_of(b"half"))
    assert run.finished_at == cancelled.time


def test_a_cancelled_run_shows_what_its_agent_had_done(tables, queries, a):
    late = a.event(
        ev.AgentFailed,
        attempt=1,
        cause=Cause.CANCELLED,
        detail="ended",
        log=ref_to(b"half", "text/plain"),
        exit=ev.ExitFacts(exit_code=None, cancelled=True, wall_s=2.0),
        unjudged_patch=ref_to(b"diff", "text/x-diff"),
    )
    tables.apply(recorded(a.requested(), a.started(), a.event(ev.RunCancelled, reason="enough"), late))
    run = shown(queries)
    assert (run.patch_digest, run.partial, run.exit.wall_s) == (digest_of(b"diff"), True, 2.0)
    assert (run.cause, run.detail, run.verdict) == (Cause.CANCELLED, "enough", None)


def test_model_calls_are_counted_also_after_the_end(tables, queries, a):
    refused = a.event(ev.InferenceRefused, reason="cost", status=429, model="m", detail="limit")
    tables.apply(
        recorded(
            a.requested(), a.started(), refused, a.failed("c1"), a.patched(), a.tested(), a.made("c2"), a.made("c3")
        )
    )
    run = shown(queries)
    assert (run.requests, run.requests_failed, run.requests_refused, run.cost_nano_usd) == (2, 1, 1, 30)


def test_the_same_positions_again_change_nothing(tables, queries, a):
    log = recorded(a.requested(), a.started(), a.made())
    assert tables.apply(log) == {RUN}
    assert tables.apply(log) == set()
    assert tables.apply(log[2:]) == set()
    assert shown(queries).cost_nano_usd == 10


def test_a_gap_stops_before_anything_of_the_batch_is_applied(tables, queries, a):
    tables.apply(recorded(a.requested()))
    with pytest.raises(LogGap, match=r"from position 1 to 3"):
        tables.apply(recorded(a.started(), after=2))
    with pytest.raises(LogGap, match=r"from position 2 to 4"):
        tables.apply([*recorded(a.started(), after=1), *recorded(a.made(), after=3)])
    assert (tables.position, queries.position(), shown(queries).state) == (1, 1, RunState.PENDING)


def test_tables_and_checkpoint_move_together_or_not_at_all(tables, queries, a, tmp_path):
    tables.apply(recorded(a.requested()))
    tables._connection.execute(
        "CREATE TRIGGER fail BEFORE UPDATE ON checkpoint BEGIN SELECT raise(ABORT, 'crash'); END"
    )
    with pytest.raises(sqlite3.IntegrityError):
        tables.apply(recorded(a.started(), a.made(), after=1))
    assert (tables.position, shown(queries).state, queries.costs("run").total.cost_nano_usd) == (1, RunState.PENDING, 0)
    tables._connection.execute("DROP TRIGGER fail")
    tables.apply(recorded(a.started(), a.made(), after=1))
    assert (queries.position(), shown(queries).cost_nano_usd) == (3, 10)


def test_a_restart_goes_on_where_it_stopped(tmp_path, a):
    path = tmp_path / "p.sqlite"
    with opened(path) as first:
        first.apply(recorded(a.requested(), a.reserved()))
    with opened(path) as second:
        assert second.position == 2
        second.apply(recorded(a.made(), after=2))
        assert Queries(second._connection).row(RUN).cost_nano_usd == 10
        assert Queries(second._connection).row(RUN).reserved_nano_usd == 0


@pytest.mark.parametrize(
    "damage", [lambda p: p.write_bytes(b"no database" * 100), lambda p: set_version(p, VERSION + 7)]
)
def test_tables_of_another_version_or_garbage_are_built_again(tmp_path, a, damage):
    path = tmp_path / "p.sqlite"
    with opened(path) as first:
        first.apply(recorded(a.requested()))
    damage(path)
    with opened(path) as second:
        assert second.position == 0


def set_version(path, version):
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version = {version}")
    connection.close()


def test_one_batch_or_many_give_the_same_tables(tmp_path, a):
    events = [
        a.requested(),
        a.started(),
        a.reserved("c1"),
        a.made("c1"),
        a.reserved("c2"),
        a.patched(),
        a.settled("c2"),
    ]
    dumps = []
    for size in (1, 2, len(events)):
        projections = Projections(open_projections(tmp_path / f"{size}.sqlite"))
        log = recorded(*events)
        for start in range(0, len(log), size):
            projections.apply(log[start : start + size])
        dumps.append(list(projections._connection.iterdump()))
        projections.close()
    assert dumps[0] == dumps[1] == dumps[2]


def test_runs_are_listed_newest_first_in_pages(tables, queries, a):
    ids = [f"{n:08d}-0000-4000-8000-000000000000" for n in range(7)]
    tables.apply(recorded(*(a.requested(run_id) for run_id in ids)))
    seen, cursor = [], None
    for _ in range(4):
        page = queries.runs(RunFilter(), limit=3, cursor=cursor)
        seen += [row.run_id for row in page.runs]
        cursor = page.next_cursor
        if cursor is None:
            break
    assert seen == ids[::-1]
    with pytest.raises(RequestRefused, match="no cursor"):
        queries.runs(RunFilter(), limit=3, cursor="'; DROP TABLE runs")


def test_filters(tables, queries, a):
    tables.apply(
        recorded(
            a.requested(RUN, "fix-a", batch_id="b", agent=b"x", agent_name="x.py"),
            a.started(RUN),
            a.requested(OTHER_RUN, "fix-b"),
        )
    )

    def found(**which):
        return [row.run_id for row in queries.runs(RunFilter(**which), limit=9).runs]

    assert found() == [OTHER_RUN, RUN]
    assert found(states=[RunState.RUNNING_AGENT]) == [RUN]
    assert found(states=[RunState.RUNNING_AGENT, RunState.PENDING]) == [OTHER_RUN, RUN]
    assert found(problem="fix-b") == [OTHER_RUN]
    assert found(batch_id="b", problem="fix-b") == []
    for agent in ("x.py", digest_of(b"x"), digest_of(b"x")[7:15], digest_of(b"x")[:20]):
        assert found(agent=agent) == [RUN], agent
    assert found(agent="%") == found(agent="") == found(agent="sha256:") == []


def test_a_run_is_found_by_a_unique_beginning_of_its_id(tables, queries, a):
    tables.apply(recorded(a.requested(RUN), a.requested(OTHER_RUN)))
    assert queries.resolve(RUN) == RUN
    assert queries.resolve(RUN.upper()) == RUN
    assert queries.resolve("11111111-11") == RUN
    with pytest.raises(AmbiguousRun) as ambiguous:
        queries.resolve("1111")
    assert ambiguous.value.candidates == (RUN, OTHER_RUN)
    assert RUN in str(ambiguous.value)
    for wrong in ("111", "", "2222", "%", "1111_", RUN + "0"):
        with pytest.raises(UnknownRun):
            queries.resolve(wrong)


def test_problems_show_their_newest_edition(tables, queries, a):
    tables.apply(recorded(a.published("p1"), a.published("p1", title="Second"), a.published("p0")))
    assert [(row.problem_id, row.title) for row in queries.problems()] == [("p0", "A bug"), ("p1", "Second")]
    assert queries.problem("p1").title == "Second"
    assert queries.problem("p2") is None


def test_views_survive_json(tables, queries, a):
    tables.apply(recorded(a.requested(), a.started(), a.made(), a.patched(), a.tested()))
    detail = shown(queries)
    assert msgspec.json.decode(msgspec.json.encode(detail), type=type(detail)) == detail
