"""What can go wrong in the ledger."""

from collections.abc import Sequence

INTO_NEW = "`ridges down`, then `ridges ledger restore --into-new` (a server: Damage in the ledger's docs/log.md)"
"""What helps where events are missing in the middle or were cut off: a stream takes events at its end alone."""


class LedgerError(Exception):
    """Root of the ledger's own errors."""


class ProjectionStopped(LedgerError):
    """The projection cannot go on without risking wrong money; reads keep showing the state it had."""


class LogGap(ProjectionStopped):
    """Positions are missing between two events of the log."""

    def __init__(self, expected: int, found: int) -> None:
        super().__init__(
            f"the log jumps from position {expected - 1} to {found}: events are missing. "
            f"Costs would be wrong, so the projection stays at {expected - 1}; "
            f"how to get the log whole again from its archive: {INTO_NEW}"
        )
        self.expected, self.found = expected, found


class ForeignLog(ProjectionStopped):
    """The projections were made from another log than the one that is connected."""

    def __init__(self, position: int, path: str) -> None:
        super().__init__(
            f"the projections in {path} were made from another log (its position {position} is not the same here). "
            f"Check RIDGES_NATS_URL. If nats-server cut off a damaged log (its end moved back): {INTO_NEW}. "
            f"If this log is the right one, delete {path} and it is built again"
        )
        self.position, self.path = position, path


class UnknownRun(LedgerError):
    """No run has this id or prefix."""

    def __init__(self, run_id: str) -> None:
        super().__init__(f"no run {run_id!r}; `GET /v1/runs` lists the runs")
        self.run_id = run_id


class AmbiguousRun(LedgerError):
    """Several runs begin with the prefix."""

    def __init__(self, prefix: str, candidates: Sequence[str]) -> None:
        super().__init__(f"{prefix!r} begins several runs: {', '.join(candidates)}; write more of the id")
        self.prefix, self.candidates = prefix, tuple(candidates)


class RequestRefused(LedgerError):
    """A request that is not carried out. ``status`` is the HTTP status that says so best."""

    def __init__(self, reason: str, *, status: int, code: int | None = None) -> None:
        super().__init__(reason)
        self.reason, self.status, self.code = reason, status, code


class ProjectionBehind(LedgerError):
    """The fact is in the log, but the projection did not reach it in time."""

    def __init__(self, run_id: str, position: int, reached: int, why: str | None) -> None:
        super().__init__(
            f"the log has your request for run {run_id} (position {position}), but the views are only at {reached}"
            f"{f' ({why})' if why else ''}; read /v1/runs/{run_id} later, do not ask again under another id"
        )
        self.run_id, self.position, self.reached = run_id, position, reached


class PassRunning(LedgerError):
    """Passes of one kind run one at a time."""

    def __init__(self, what: str) -> None:
        super().__init__(f"a {what} is running already; wait for its end, then ask again")
        self.what = what
