"""The two folder formats: a tree of files to a ``Problem``. What is incomplete is refused with every reason at once."""

import re
from collections.abc import Iterable
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from ridges.contracts.blobs import digest_of
from ridges.contracts.limits import MIB, Network, SandboxLimits, Seconds
from ridges.evaluator.diffs import difference
from ridges.evaluator.domain import Category, ExpectedTest, Kind, Problem, SourceFile, Tree
from ridges.evaluator.errors import ProblemBroken
from ridges.evaluator.problems.test_ids import ParametrizedTests, TestFile
from ridges.evaluator.problems.tree import below, pack

PROBLEM_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")
"""Also a token of a NATS subject, hence no dots."""

MAX_TESTS, MAX_ID_CHARS = 800, 60_000
"""Results must fit into one event."""

_NOT_IN_WORKSPACE = frozenset({"instructions.md", "tests.py", "solution.py", "problem.toml", "README.md"})


class _Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    agent_timeout_s: Seconds | None = None
    test_timeout_s: Seconds | None = None
    cpus: Annotated[float, Meta(gt=0, le=64)] | None = None
    memory_mib: Annotated[int, Meta(ge=64)] | None = None
    disk_mib: Annotated[int, Meta(ge=1)] | None = None
    pids: Annotated[int, Meta(ge=8)] | None = None
    runtime: Annotated[str, Meta(min_length=1, max_length=100)] | None = None
    network: Network | None = None

    def sandbox(self) -> SandboxLimits | None:
        """What its sandboxes get; None = nothing is said about them."""
        said = {"cpus": self.cpus, "pids": self.pids, "runtime": self.runtime, "network": self.network}
        said["memory_bytes"] = None if self.memory_mib is None else self.memory_mib * MIB
        said["disk_bytes"] = None if self.disk_mib is None else self.disk_mib * MIB
        chosen: dict[str, Any] = {name: value for name, value in said.items() if value is not None}
        return SandboxLimits(**chosen) if chosen else None


class _Tests(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    fail_to_pass: tuple[str, ...] = ()
    pass_to_pass: tuple[str, ...] = ()
    expected: tuple[str, ...] = ()
    python_path: tuple[str, ...] = ()
    probes: bool = True


class _Description(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    kind: Kind | None = None
    title: Annotated[str, Meta(min_length=1, max_length=300)] | None = None
    image: Annotated[str, Meta(min_length=1, max_length=300)] | None = None
    limits: _Limits = _Limits()
    tests: _Tests = _Tests()


msgspec.json.Decoder(_Description)
"""Builds the type: descriptions are read in threads, and msgspec shows a thread what another one has half built."""


def edition_of(tree: Tree) -> bytes:
    """The bytes whose digest names this edition of the problem: everything in the folder, hidden tests included."""
    return pack(tree)


def parse_problem(problem_id: str, tree: Tree) -> Problem:
    """The problem that the files of its folder describe.

    Raises:
        ProblemBroken: naming every missing or wrong file.
    """
    if not PROBLEM_ID.fullmatch(problem_id):
        raise ProblemBroken(problem_id, ("the folder's name may hold only letters, digits, - and _ (at most 100)",))
    description = _describe(problem_id, tree)
    problem = (
        _fix(problem_id, description, tree) if description.kind == "fix" else _create(problem_id, description, tree)
    )
    reasons = (*_wrong_ids(problem), *_wrong_paths(problem), *_too_many(problem))
    if reasons:
        raise ProblemBroken(problem_id, reasons)
    return problem


def _describe(problem_id: str, tree: Tree) -> _Description:
    file = tree.get("problem.toml")
    if file is None:
        if "instructions.md" not in tree and "tests.py" not in tree:
            raise ProblemBroken(
                problem_id, ("problem.toml is missing (a create problem needs at least instructions.md)",)
            )
        return _Description(kind="create")
    try:
        description = msgspec.toml.decode(file.content, type=_Description)
    except (msgspec.MsgspecError, UnicodeDecodeError, ValueError) as error:
        raise ProblemBroken(problem_id, (f"problem.toml: {error}",)) from error
    if description.kind is None:
        raise ProblemBroken(problem_id, ('problem.toml: kind is missing; write kind = "fix" or kind = "create"',))
    return description


def _fix(problem_id: str, description: _Description, tree: Tree) -> Problem:
    workspace, tests = below(tree, "repo"), below(tree, "tests")
    chosen = description.tests
    reasons = _missing(tree, "statement.md", "solution.diff")
    reasons += [f"{name}/ is missing or empty" for name, files in (("repo", workspace), ("tests", tests)) if not files]
    if not chosen.fail_to_pass:
        reasons.append("problem.toml: [tests] fail_to_pass is missing or empty")
    if chosen.expected:
        reasons.append("problem.toml: [tests] expected is for create problems; use fail_to_pass and pass_to_pass")
    reasons += [
        f"problem.toml: {test} is listed twice" for test in _doubles((*chosen.fail_to_pass, *chosen.pass_to_pass))
    ]
    if description.title is None:
        reasons.append("problem.toml: title is missing")
    _refuse_if(problem_id, reasons)
    return Problem(
        problem_id=problem_id,
        problem_digest=digest_of(edition_of(tree)),
        kind="fix",
        title=description.title or "",
        statement=_text(problem_id, tree, "statement.md"),
        workspace=workspace,
        tests=tests,
        reference=tree["solution.diff"].content,
        solution=tree["solution.diff"].content,
        expected=_expect("fail_to_pass", chosen.fail_to_pass) + _expect("pass_to_pass", chosen.pass_to_pass),
        python_path=("", *(path for path in chosen.python_path if path)),
        probes=chosen.probes,
        agent_timeout_s=description.limits.agent_timeout_s,
        evaluation_timeout_s=description.limits.test_timeout_s,
        image=description.image,
        sandbox=description.limits.sandbox(),
    )


def _create(problem_id: str, description: _Description, tree: Tree) -> Problem:
    chosen = description.tests
    reasons = _missing(tree, "instructions.md", "main.py", "tests.py", "solution.py")
    if chosen.fail_to_pass or chosen.pass_to_pass:
        reasons.append("problem.toml: fail_to_pass and pass_to_pass are for fix problems; use [tests] expected")
    reasons += [f"problem.toml: {test} is listed twice" for test in _doubles(chosen.expected)]
    _refuse_if(problem_id, reasons)
    workspace = {name: file for name, file in tree.items() if name not in _NOT_IN_WORKSPACE}
    statement = _text(problem_id, tree, "instructions.md")
    return Problem(
        problem_id=problem_id,
        problem_digest=digest_of(edition_of(tree)),
        kind="create",
        title=description.title or _heading(statement) or problem_id,
        statement=statement,
        workspace=workspace,
        tests={"tests.py": tree["tests.py"]},
        reference=difference("main.py", tree["main.py"].content, tree["solution.py"].content),
        solution=tree["solution.py"].content,
        expected=_expect("default", chosen.expected or _parsed_ids(problem_id, tree["tests.py"])),
        python_path=("", *(path for path in chosen.python_path if path)),
        probes=chosen.probes,
        agent_timeout_s=description.limits.agent_timeout_s,
        evaluation_timeout_s=description.limits.test_timeout_s,
        image=description.image,
        sandbox=description.limits.sandbox(),
    )


def _parsed_ids(problem_id: str, file: SourceFile) -> tuple[str, ...]:
    try:
        ids = _parse("tests.py", file).ids()
    except ParametrizedTests as error:
        advice = 'name all ids in problem.toml: [tests] expected = ["tests.py::test_x[0]", …]'
        raise ProblemBroken(problem_id, (f"{error}; {advice}",)) from error
    except (SyntaxError, ValueError) as error:
        raise ProblemBroken(problem_id, (f"tests.py: {error}",)) from error
    if not ids:
        raise ProblemBroken(problem_id, ("tests.py defines no test (classes of unittest.TestCase or functions test…)",))
    return ids


def _parse(name: str, file: SourceFile) -> TestFile:
    return TestFile(name, file.content.decode())


def _wrong_ids(problem: Problem) -> Iterable[str]:
    parsed: dict[str, TestFile] = {}
    for test in problem.expected:
        name, separator, _ = test.id.partition("::")
        if not separator or name not in problem.tests:
            yield f"problem.toml: {test.id}: there is no hidden test file {name!r}"
            continue
        try:
            file = parsed.get(name) or parsed.setdefault(name, _parse(name, problem.tests[name]))
        except (SyntaxError, ValueError) as error:
            yield f"hidden test file {name}: {error}"
            return
        if file.defines(test.id) is False:
            yield f"problem.toml: {test.id}: {name} defines no such test"


def _wrong_paths(problem: Problem) -> Iterable[str]:
    for path in problem.python_path:
        if path and not any(name.startswith(path.rstrip("/") + "/") for name in problem.workspace):
            yield f"problem.toml: [tests] python_path: there is no folder {path!r} in the repository"


def _too_many(problem: Problem) -> Iterable[str]:
    if len(problem.expected) > MAX_TESTS or sum(len(test.id) for test in problem.expected) > MAX_ID_CHARS:
        yield f"more than {MAX_TESTS} tests (or {MAX_ID_CHARS} characters of ids) decide; list fewer in problem.toml"


def _missing(tree: Tree, *names: str) -> list[str]:
    return [f"{name} is missing" for name in names if name not in tree]


def _refuse_if(problem_id: str, reasons: list[str]) -> None:
    if reasons:
        raise ProblemBroken(problem_id, tuple(reasons))


def _doubles(ids: tuple[str, ...]) -> list[str]:
    return sorted({test for test in ids if ids.count(test) > 1})


def _expect(category: Category, ids: Iterable[str]) -> tuple[ExpectedTest, ...]:
    return tuple(ExpectedTest(id=test, category=category) for test in ids)


def _text(problem_id: str, tree: Tree, name: str) -> str:
    try:
        text = tree[name].content.decode()
    except UnicodeDecodeError as error:
        raise ProblemBroken(problem_id, (f"{name} is not UTF-8: {error}",)) from error
    if not text.strip():
        raise ProblemBroken(problem_id, (f"{name} is empty",))
    return text


def _heading(statement: str) -> str | None:
    first = statement.lstrip().splitlines()[0]
    return first.lstrip("# ").strip()[:300] or None if first.startswith("#") else None
