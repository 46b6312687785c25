"""Problem folders: what loads, what is refused and with which words."""

import io
import os
import tarfile
from pathlib import Path

import pytest
from grading import CREATE, FIX, problem_of, write_folder

from ridges.contracts.blobs import digest_of
from ridges.contracts.limits import MIB, SandboxLimits
from ridges.evaluator.domain import SourceFile
from ridges.evaluator.errors import ProblemBroken
from ridges.evaluator.problems.formats import edition_of, parse_problem
from ridges.evaluator.problems.test_ids import ParametrizedTests, TestFile
from ridges.evaluator.problems.tree import TreeRefused, pack, read_tree, unpack


def test_a_fix_problem():
    problem = problem_of(FIX)
    assert (problem.kind, problem.title) == ("fix", "Median of an even count")
    assert (problem.agent_timeout_s, problem.evaluation_timeout_s) == (300, 60)
    assert sorted(problem.workspace) == ["README.md", "pyproject.toml", "stats/__init__.py", "stats/median.py"]
    assert sorted(problem.tests) == ["test_median.py", "test_report.py"]
    assert [test.category for test in problem.expected] == ["fail_to_pass"] * 2 + ["pass_to_pass"] * 3
    assert problem.python_path == ("",)


def test_a_problem_says_what_its_sandboxes_get():
    assert problem_of(FIX).sandbox is None
    more = "test_timeout_s = 60\ncpus = 2.0\nmemory_mib = 3072\ndisk_mib = 512\n"
    more += "runtime = 'runsc'\nnetwork = 'internal'\n"
    problem = problem_of(FIX | {"problem.toml": FIX["problem.toml"].replace("test_timeout_s = 60\n", more)})
    assert problem.sandbox == SandboxLimits(
        cpus=2.0,
        memory_bytes=3072 * MIB,
        disk_bytes=512 * MIB,
        pids=SandboxLimits().pids,
        runtime="runsc",
        network="internal",
    )
    with pytest.raises(ProblemBroken, match="memory_mib"):
        problem_of(FIX | {"problem.toml": FIX["problem.toml"].replace("test_timeout_s = 60\n", "memory_mib = 1\n")})


def test_a_create_problem_without_a_description():
    problem = problem_of(CREATE | {"helpers.py": "x = 1\n"})
    assert (problem.kind, problem.title) == ("create", "Roman numbers")
    assert sorted(problem.workspace) == ["helpers.py", "main.py"]
    assert {test.id for test in problem.expected} == {
        f"tests.py::RomanTest::test_{name}" for name in ("one", "four", "year", "nothing")
    }


def test_a_create_problem_with_listed_tests():
    toml = 'kind = "create"\ntitle = "Romans"\n[tests]\nexpected = ["tests.py::RomanTest::test_one"]\n'
    problem = problem_of(CREATE | {"problem.toml": toml})
    assert (problem.title, len(problem.expected)) == ("Romans", 1)


TOML = FIX["problem.toml"]


@pytest.mark.parametrize(
    ("files", "says"),
    [
        (FIX | {"statement.md": None}, ["statement.md is missing"]),
        (FIX | {"statement.md": None, "solution.diff": None}, ["statement.md is missing", "solution.diff is missing"]),
        (FIX | {"statement.md": " \n"}, ["statement.md is empty"]),
        (FIX | {"statement.md": b"\xff"}, ["statement.md is not UTF-8"]),
        ({k: v for k, v in FIX.items() if not k.startswith("repo/")}, ["repo/ is missing or empty"]),
        ({k: v for k, v in FIX.items() if not k.startswith("tests/")}, ["tests/ is missing or empty"]),
        ({}, ["problem.toml is missing"]),
        (FIX | {"problem.toml": "kind ="}, ["problem.toml: "]),
        (FIX | {"problem.toml": 'title = "x"\n'}, ['write kind = "fix"']),
        (FIX | {"problem.toml": 'kind = "rewrite"\n'}, ["problem.toml: ", "rewrite"]),
        (FIX | {"problem.toml": TOML.replace("title", "titel")}, ["problem.toml: ", "titel"]),
        (FIX | {"problem.toml": TOML.replace("= 300", "= 0")}, ["problem.toml: ", "agent_timeout_s"]),
        (FIX | {"problem.toml": 'kind = "fix"\ntitle = "x"\n'}, ["fail_to_pass is missing or empty"]),
        (FIX | {"problem.toml": TOML.replace("test_even", "test_evn")}, ["test_median.py defines no such test"]),
        (FIX | {"problem.toml": TOML.replace("ReportTest", "Report")}, ["test_report.py defines no such test"]),
        (FIX | {"problem.toml": TOML.replace("test_report.py", "test_no.py")}, ["no hidden test file 'test_no.py'"]),
        (FIX | {"problem.toml": TOML.replace("test_odd", "test_even")}, ["test_even is listed twice"]),
        (FIX | {"problem.toml": TOML + 'python_path = ["src"]\n'}, ["no folder 'src'"]),
        (FIX | {"tests/test_median.py": "def broken(:\n"}, ["hidden test file test_median.py"]),
        (CREATE | {"tests.py": None}, ["tests.py is missing"]),
        (CREATE | {"solution.py": None, "main.py": None}, ["main.py is missing", "solution.py is missing"]),
        (CREATE | {"instructions.md": None}, ["instructions.md is missing"]),
        (CREATE | {"tests.py": "x = 1\n"}, ["tests.py defines no test"]),
        (
            CREATE | {"tests.py": "import pytest\n@pytest.mark.parametrize('x', [1])\ndef test_x(x): ...\n"},
            ["[tests] expected"],
        ),
        (CREATE | {"tests.py": b"def test_x(): '\xff'\n"}, ["tests.py: "]),
    ],
)
def test_what_is_incomplete_is_named(files, says):
    with pytest.raises(ProblemBroken) as broken:
        problem_of(files)
    for words in ["problem tiny: ", *says]:
        assert words in str(broken.value)


@pytest.mark.parametrize("problem_id", ["", "a.b", "a b", "../x", "-x", "x" * 101])
def test_ids_that_cannot_name_a_stream(problem_id):
    with pytest.raises(ProblemBroken, match="letters, digits"):
        parse_problem(problem_id, {})


def test_the_digest_covers_everything_and_nothing_else():
    base = problem_of(FIX).problem_digest
    assert problem_of(dict(reversed(FIX.items()))).problem_digest == base
    assert problem_of(FIX | {"repo/__pycache__/x.pyc": b"x", "repo/.pytest_cache/y": "y"}).problem_digest == base
    for name in FIX:
        if name not in ("problem.toml", "solution.diff"):
            assert problem_of(FIX | {name: FIX[name] + "\n\n"}).problem_digest != base


def test_the_digest_names_the_edition(tmp_path):
    tree = read_tree(write_folder(tmp_path, CREATE))
    assert parse_problem("x", tree).problem_digest == digest_of(edition_of(tree))
    assert parse_problem("x", unpack(edition_of(tree))) == parse_problem("x", tree)


def test_the_tar_is_deterministic_and_plain(tmp_path):
    write_folder(tmp_path, {"b/two.txt": "2", "a.sh": "#!/bin/sh\n", "ü/ñ.txt": "3"})
    (tmp_path / "a.sh").chmod(0o755)
    first = pack(read_tree(tmp_path))
    for path in tmp_path.rglob("*"):
        os.utime(path, (1, 1))
    assert pack(dict(reversed(read_tree(tmp_path).items()))) == first
    with tarfile.open(fileobj=io.BytesIO(first)) as tar:
        entries = tar.getmembers()
    assert [(e.name, oct(e.mode)) for e in entries] == [
        ("a.sh", "0o755"), ("b", "0o755"), ("b/two.txt", "0o644"), ("ü", "0o755"), ("ü/ñ.txt", "0o644"),
    ]  # fmt: skip
    assert {(e.uid, e.gid, e.mtime, e.uname) for e in entries} == {(1000, 1000, 0, "")}
    assert unpack(first) == read_tree(tmp_path)


def test_symbolic_links_are_refused(tmp_path):
    (tmp_path / "x").symlink_to("/etc/passwd")
    with pytest.raises(TreeRefused, match="x is a symbolic link"):
        read_tree(tmp_path)


def test_a_linked_folder_is_refused(tmp_path):
    (tmp_path / "x").symlink_to("/etc")
    with pytest.raises(TreeRefused, match="symbolic link"):
        read_tree(tmp_path)


def test_history_is_refused(tmp_path):
    write_folder(tmp_path, {"repo/.git/HEAD": "ref: refs/heads/main\n"})
    with pytest.raises(TreeRefused, match=r"\.git"):
        read_tree(tmp_path)


def test_devices_and_pipes_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(TreeRefused, match="neither a regular file nor a folder"):
        read_tree(tmp_path)


def test_no_tar_is_no_tree():
    with pytest.raises(TreeRefused, match="not a tar"):
        unpack(b"x" * 1024)


INHERITED = """
import unittest
from elsewhere import Foreign

class Base(unittest.TestCase):
    def test_of_base(self): ...

class Child(Base):
    def test_of_child(self): ...
    def not_a_test(self): ...

class TestPlain:
    def test_method(self): ...
    class TestInner:
        def test_inner(self): ...

class Helper:
    def test_never(self): ...

class Strange(Foreign):
    def test_known(self): ...

def test_function(): ...
def helper(): ...
"""


def test_ids_are_those_that_pytest_would_give():
    file = TestFile("t.py", INHERITED)
    assert file.ids() == (
        "t.py::test_function", "t.py::Base::test_of_base", "t.py::Child::test_of_base", "t.py::Child::test_of_child",
        "t.py::TestPlain::test_method",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("test_id", "defined"),
    [
        ("t.py::test_function", True),
        ("t.py::test_function[x::y]", True),
        ("t.py::Child::test_of_base", True),
        ("t.py::Child::test_none", False),
        ("t.py::NoClass::test_x", False),
        ("t.py::Strange::test_inherited", None),
        ("t.py::TestPlain::TestInner::test_inner", None),
    ],
)
def test_whether_a_file_defines_a_test(test_id, defined):
    assert TestFile("t.py", INHERITED).defines(test_id) is defined


def test_parametrized_tests_cannot_be_listed():
    with pytest.raises(ParametrizedTests):
        TestFile("t.py", "@pytest.mark.parametrize('x', [1])\ndef test_x(x): ...\n").ids()


def test_the_example_problems_load():
    root = Path(__file__).resolve().parents[3] / "examples" / "problems"
    folders = [path for path in root.iterdir() if path.is_dir()]
    assert len(folders) >= 4
    for folder in folders:
        problem = parse_problem(folder.name, read_tree(folder))
        secret = {file.content for file in problem.tests.values()}
        assert not secret & {file.content for file in problem.workspace.values()}


def test_packing_keeps_odd_names():
    tree = {"a" * 120 + "/" + "b" * 120: SourceFile(b"x"), "c\n": SourceFile(b"y", executable=True)}
    assert unpack(pack(tree)) == tree
