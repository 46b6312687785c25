"""Problem folders to ``ProblemPublished``: at the start, on SIGHUP, and whenever a folder has changed."""

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import structlog

from ridges.chassis.ports import BlobStore, Clock, EventStore, EventStoreUnavailable, LastPosition, WrongPosition
from ridges.contracts.events import ProblemPublished
from ridges.contracts.subjects import problem_stream_id
from ridges.evaluator.domain import Problem, event_id
from ridges.evaluator.errors import ProblemBroken, ProblemUnknown
from ridges.evaluator.problems.formats import edition_of, parse_problem
from ridges.evaluator.problems.tree import TreeRefused, fingerprint, pack, read_tree

log = structlog.get_logger(__name__)

TAR = "application/x-tar"
MARKDOWN = "text/markdown; charset=utf-8"


class BrokenProblem(msgspec.Struct, frozen=True, kw_only=True):
    """A folder that is no usable problem, and why."""

    problem_id: str
    folder: str
    reasons: tuple[str, ...]


class _Folder(msgspec.Struct, frozen=True, kw_only=True):
    path: Path
    state: object
    """Changes when a file in it does."""
    problem: Problem | None
    broken: BrokenProblem | None


class Publisher:
    """Knows the problems of its folders and keeps the log's view of them current."""

    def __init__(
        self, *, store: EventStore, blobs: BlobStore, clock: Clock, dirs: Sequence[Path], rescan_s: float
    ) -> None:
        self._store, self._blobs, self._clock = store, blobs, clock
        self._dirs, self._rescan_s = tuple(dirs), rescan_s
        self._folders: dict[Path, _Folder] = {}
        self._scanning = asyncio.Lock()
        self._asked = asyncio.Event()
        self._trouble: str | None = "the problem folders were not read yet"

    @property
    def problems(self) -> tuple[Problem, ...]:
        """What is published, by id."""
        found = [folder.problem for folder in self._folders.values() if folder.problem is not None]
        return tuple(sorted(found, key=lambda problem: problem.problem_id))

    @property
    def broken(self) -> tuple[BrokenProblem, ...]:
        """What is not, with reasons."""
        found = [folder.broken for folder in self._folders.values() if folder.broken is not None]
        return tuple(sorted(found, key=lambda broken: (broken.problem_id, broken.folder)))

    def find(self, problem_id: str) -> Problem:
        """The problem of that id.

        Raises:
            ProblemBroken: its folder is there but cannot be used.
            ProblemUnknown: there is no such folder.
        """
        for problem in self.problems:
            if problem.problem_id == problem_id:
                return problem
        for broken in self.broken:
            if broken.problem_id == problem_id:
                raise ProblemBroken(problem_id, broken.reasons)
        raise ProblemUnknown(problem_id, tuple(problem.problem_id for problem in self.problems))

    def rescan_soon(self) -> None:
        """Have ``run`` look at the folders now (SIGHUP)."""
        self._asked.set()

    async def run(self) -> None:
        """Scan for ever. What a scan cannot reach (log, blob store) is tried again with the next one."""
        while True:
            self._asked.clear()
            try:
                await self.scan()
                pause_s = self._rescan_s
            except (EventStoreUnavailable, OSError) as error:
                self._trouble = f"problems are not published: {error}"
                log.warning("problems are not published yet", error=str(error))
                pause_s = min(2.0, self._rescan_s)
            try:
                async with asyncio.timeout(pause_s):
                    await self._asked.wait()
            except TimeoutError:
                continue

    async def check(self) -> None:
        """For /readyz.

        Raises:
            RuntimeError: no complete scan yet.
        """
        if self._trouble is not None:
            raise RuntimeError(self._trouble)

    async def scan(self) -> None:
        """Look at all folders; publish what is new or changed.

        Raises:
            EventStoreUnavailable: the log does not answer.
            OSError: the blob store does not.
        """
        async with self._scanning:
            found: dict[Path, _Folder] = {}
            ids: dict[str, Path] = {}
            for path in await asyncio.to_thread(lambda: list(_candidates(self._dirs))):
                known = self._folders.get(path)
                folder, edition = await asyncio.to_thread(_read, path, known)
                if folder.problem is not None and path.name in ids:
                    folder, edition = _same_id(path, ids[path.name]), None
                ids.setdefault(path.name, path)
                if folder.problem is not None and edition is not None:
                    await self._publish(folder.problem, edition)
                if folder.broken is not None and folder != known:
                    log.warning("problem cannot be used", folder=str(path), reasons=folder.broken.reasons)
                found[path] = folder
            self._folders = found
            self._trouble = None

    async def _publish(self, problem: Problem, edition: bytes) -> None:
        await self._blobs.put(edition, TAR)
        statement = await self._blobs.put(problem.statement.encode(), MARKDOWN)
        workspace = await self._blobs.put(await asyncio.to_thread(pack, problem.workspace), TAR)
        stream_id = problem_stream_id(problem.problem_id)
        while True:
            published = [
                entry for entry in await self._store.read_run(stream_id) if isinstance(entry.event, ProblemPublished)
            ]
            newest = published[-1] if published else None
            if newest is not None and getattr(newest.event, "problem_digest", None) == problem.problem_digest:
                return
            position = newest.position if newest else 0
            event = ProblemPublished(
                id=event_id(problem.problem_id, problem.problem_digest, position),
                run_id=stream_id,
                time=self._clock.now(),
                problem_id=problem.problem_id,
                kind=problem.kind,
                title=problem.title,
                problem_digest=problem.problem_digest,
                statement=statement,
                workspace=workspace,
                agent_timeout_s=problem.agent_timeout_s,
                evaluation_timeout_s=problem.evaluation_timeout_s,
                image=problem.image,
                sandbox=problem.sandbox,
            )
            try:
                await self._store.append(stream_id, [event], LastPosition(position, ProblemPublished))
            except WrongPosition:
                continue
            log.info("problem published", problem=problem.problem_id, digest=problem.problem_digest)
            return


def look_at_folders(dirs: Sequence[Path]) -> tuple[tuple[Problem, ...], tuple[BrokenProblem, ...]]:
    """Usable problems and broken folders as a scan would find them. Nothing is published."""
    problems: dict[str, Problem] = {}
    broken: list[BrokenProblem] = []
    places: dict[str, Path] = {}
    for path in _candidates(dirs):
        folder, _ = _read(path, None)
        if folder.problem is not None and path.name in places:
            folder = _same_id(path, places[path.name])
        places.setdefault(path.name, path)
        if folder.problem is not None:
            problems[path.name] = folder.problem
        if folder.broken is not None:
            broken.append(folder.broken)
    return tuple(problems.values()), tuple(broken)


def _candidates(dirs: Sequence[Path]) -> Iterator[Path]:
    for directory in dirs:
        if not directory.is_dir():
            yield directory
            continue
        for path in sorted(directory.iterdir()):
            if path.is_dir() and not path.name.startswith((".", "_")):
                yield path


def _same_id(path: Path, first: Path) -> _Folder:
    return _broken(path, None, (f"{first} has the same id; rename one of them",))


def _read(path: Path, known: _Folder | None) -> tuple[_Folder, bytes | None]:
    """The folder as it is now, with its edition; the known one, without, when nothing in it has changed."""
    if not path.is_dir():
        reason = (
            "there is no such folder; make it, or set RIDGES_PROBLEMS_DIRS ([problems] dirs in ridges.toml) "
            "to the folder that holds problem folders"
        )
        return _broken(path, None, (reason,)), None
    try:
        state = fingerprint(path)
        if known is not None and known.state == state:
            return known, None
        tree = read_tree(path)
        problem = parse_problem(path.name, tree)
    except ProblemBroken as error:
        return _broken(path, None, error.reasons), None
    except (TreeRefused, OSError) as error:
        return _broken(path, None, (str(error),)), None
    return _Folder(path=path, state=state, problem=problem, broken=None), edition_of(tree)


def _broken(path: Path, state: object, reasons: tuple[str, ...]) -> _Folder:
    broken = BrokenProblem(problem_id=path.name, folder=str(path), reasons=reasons)
    return _Folder(path=path, state=state, problem=None, broken=broken)
