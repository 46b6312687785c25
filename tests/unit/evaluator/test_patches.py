"""What a patch may be: vetted by us, then applied by the real git."""

import subprocess

import pytest
from grading import CREATE, FIX, git_patch, problem_of, write_folder
from hypothesis import given
from hypothesis import strategies as st

from ridges.contracts.faults import Cause
from ridges.evaluator.diffs import difference, parse, quoted, write
from ridges.evaluator.domain import SourceFile
from ridges.evaluator.errors import PatchRefused
from ridges.evaluator.patches import PatchLimits, vet


def tree(**files: bytes) -> dict[str, SourceFile]:
    return {name.replace("__", "/").replace("_py", ".py"): SourceFile(content) for name, content in files.items()}


def applied(folder, workspace, patch: bytes) -> dict[str, bytes]:
    """The files after the real ``git apply`` of a vetted patch."""
    write_folder(folder, {name: file.content for name, file in workspace.items()})
    (folder.parent / "p.diff").write_bytes(patch)
    done = subprocess.run(
        ["git", "apply", "--whitespace=nowarn", "../p.diff"], cwd=folder, capture_output=True, check=False,
        env={"GIT_CEILING_DIRECTORIES": str(folder.parent), "PATH": "/usr/bin:/bin:/usr/local/bin"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "repo"
    made.mkdir()
    return made


LF = b"one\ntwo\nthree\nfour\nfive\n"
CRLF = LF.replace(b"\n", b"\r\n")
LF_PATCH = b"--- a/x.py\n+++ b/x.py\n@@ -1,3 +1,4 @@\n one\n-two\n+TWO\n+2\n three\n"
CRLF_BODY = b"--- a/x.py\n+++ b/x.py\n@@ -1,3 +1,4 @@\n one\r\n-two\r\n+TWO\r\n+2\r\n three\r\n"
CRLF_ALL = LF_PATCH.replace(b"\n", b"\r\n")
CHANGED = b"one\nTWO\n2\nthree\nfour\nfive\n"


@pytest.mark.parametrize(
    ("target", "patch", "after", "mended"),
    [
        (LF, LF_PATCH, CHANGED, ()),
        (CRLF, CRLF_BODY, CHANGED.replace(b"\n", b"\r\n"), ()),  # carriage returns are real content
        (LF, CRLF_ALL, CHANGED, ("CRLF line ends of the patch", "CRLF to LF in x.py")),
        (LF, CRLF_BODY, CHANGED, ("CRLF to LF in x.py",)),
        (CRLF, CRLF_ALL, CHANGED.replace(b"\n", b"\r\n"), ("CRLF line ends of the patch",)),
        (CRLF, LF_PATCH, CHANGED.replace(b"\n", b"\r\n"), ("LF to CRLF in x.py",)),
        (LF, LF_PATCH[:-1], CHANGED, ("last newline added",)),
        (LF, CRLF_ALL[:-2], CHANGED, ("last newline added", "CRLF line ends of the patch", "CRLF to LF in x.py")),
    ],
)
def test_line_ends_are_those_of_the_target(folder, target, patch, after, mended):
    workspace = tree(x_py=target)
    vetted = vet(patch, workspace)
    assert applied(folder, workspace, vetted.content)["x.py"] == after
    assert vetted.mended == mended


def test_a_stripped_patch_gets_its_blank_context_lines_back(folder):
    workspace = tree(x_py=b"one\n\n\ntwo\n")
    patch = b"--- a/x.py\n+++ b/x.py\n@@ -1,3 +1,3 @@\n-one\n+ONE\n \n \n"
    vetted = vet(patch.strip(), workspace)
    assert applied(folder, workspace, vetted.content)["x.py"] == b"ONE\n\n\ntwo\n"
    assert "blank lines at the end added" in vetted.mended


@pytest.mark.parametrize(
    "changes",
    [
        {"main.py": "x = 1\n"},
        {"main.py": "no newline at the end"},
        {"main.py": None},
        {"main.py": None, "renamed.py": CREATE["main.py"]},
        {"main.py": None, "renamed.py": CREATE["main.py"] + "# more\n"},
        {"pkg/new.py": "a = 1\n", "pkg/empty.py": ""},
        {"with space.py": "a = 1\n", "ümlaut/naïve.py": "a = 1\n", 'quo"te.py': "a = 1\n"},
        {"main.py": b"caf\xe9 = 'latin-1'\n"},
    ],
)
def test_what_git_diff_writes_applies_unchanged(folder, changes):
    problem = problem_of(CREATE)
    vetted = vet(git_patch(problem, changes), problem.workspace)
    after = applied(folder, problem.workspace, vetted.content)
    for name, content in changes.items():
        assert after.get(name) == (content.encode() if isinstance(content, str) else content)
    assert vetted.mended == ()


def test_mode_changes_go_through(folder):
    patch = b"diff --git a/x.py b/x.py\nold mode 100644\nnew mode 100755\n"
    applied(folder, tree(x_py=LF), vet(patch, tree(x_py=LF)).content)
    assert (folder / "x.py").stat().st_mode & 0o100


def test_text_around_the_diff_is_ignored(folder):
    """Agents wrap patches in prose, Markdown fences and mail."""
    mail = b"From 1234\nSubject: fix\n\n- a list\n---\n x.py | 2 +-\n\n" + LF_PATCH + b"-- \n2.39.5\n\n"
    assert applied(folder, tree(x_py=LF), vet(mail, tree(x_py=LF)).content)["x.py"] == CHANGED
    fenced = b"Here it is:\n```diff\n" + LF_PATCH + b"```\n"
    assert vet(fenced, tree(x_py=LF)).content == vet(LF_PATCH, tree(x_py=LF)).content


def test_binary_files_are_left_out_and_told(folder):
    problem = problem_of(CREATE)
    patch = git_patch(problem, {"main.py": "x = 1\n", "cache.db": bytes(range(256))})
    vetted = vet(patch, problem.workspace)
    assert vetted.mended == ("binary file cache.db left out",)
    assert applied(folder, problem.workspace, vetted.content) == {"main.py": b"x = 1\n"}


NEW = "--- /dev/null\n+++ {}\n@@ -0,0 +1 @@\n+x\n"


@pytest.mark.parametrize(
    ("patch", "cause", "says"),
    [
        ("", Cause.PATCH_EMPTY, "empty"),
        (" \n\r\n\t", Cause.PATCH_EMPTY, "empty"),
        ("I could not do it.", Cause.PATCH_INVALID, "no file header"),
        ("--- a/x\n+++ b/x\n@@ -1,3 +1,3 @@\n one\n-two\n", Cause.PATCH_INVALID, "short of what its header says"),
        ("--- a/x\n+++ b/x\n@@ -1 +1 @@\n-a\n+b\n+c\n", Cause.PATCH_INVALID, "outside of any hunk"),
        ("@@ -1 +1 @@\n-a\n+b\n", Cause.PATCH_INVALID, "outside of any hunk"),
        ("diff --git a/x b/x\n@@ one @@\n", Cause.PATCH_INVALID, "not a hunk header"),
        ("diff --cc x\n", Cause.PATCH_INVALID, "merge"),
        (NEW.format("b/../x"), Cause.PATCH_INVALID, ".. parts"),
        (NEW.format("b//etc/passwd"), Cause.PATCH_INVALID, "absolute"),
        (NEW.format("/etc/passwd"), Cause.PATCH_INVALID, "absolute"),
        (NEW.format("b/C:/x"), Cause.PATCH_INVALID, "absolute"),
        (NEW.format("b/a/./x"), Cause.PATCH_INVALID, ". and .."),
        (NEW.format("b/a\\x"), Cause.PATCH_INVALID, "backslashes"),
        (NEW.format('"b/\\056\\056/x"'), Cause.PATCH_INVALID, ".. parts"),
        (NEW.format('"b/a\\nb"'), Cause.PATCH_INVALID, "control characters"),
        (NEW.format('"b/a\\377b"'), Cause.PATCH_INVALID, "control characters"),
        (NEW.format("b/a\u202eb"), Cause.PATCH_INVALID, "control characters"),
        (NEW.format('"b/a\\qb"'), Cause.PATCH_INVALID, "unknown escape"),
        (NEW.format("b/" + "x" * 300), Cause.PATCH_INVALID, "too long"),
        (NEW.format("b/.git/hooks/pre-commit"), Cause.PATCH_INVALID, "git itself"),
        (NEW.format("b/pkg/.GIT/config"), Cause.PATCH_INVALID, "git itself"),
        (NEW.format("b/.gitattributes"), Cause.PATCH_INVALID, "git itself"),
        (NEW.format("b/.gitmodules"), Cause.PATCH_INVALID, "git itself"),
        ("diff --git a/x b/x\nold mode 100644\nnew mode 120000\n", Cause.PATCH_INVALID, "symbolic link"),
        (
            "diff --git a/x b/x\nindex 1..2 120000\n--- a/x\n+++ b/x\n@@ -1 +1 @@\n-a\n+b\n",
            Cause.PATCH_INVALID,
            "symbolic",
        ),
        ("diff --git a/x b/x\ndeleted file mode 160000\n", Cause.PATCH_INVALID, "submodule"),
        ("diff --git a/x b/x\nnew file mode 040000\n", Cause.PATCH_INVALID, "not a regular file"),
        ("diff --git a/x b/y\nrename from x\nrename to ../y\n", Cause.PATCH_INVALID, ".. parts"),
        ("diff --git a/x b/y\ncopy from ../x\ncopy to y\n", Cause.PATCH_INVALID, ".. parts"),
        ("diff --git a/x b/y\n--- a/x\n+++ b/y\n@@ -1 +1 @@\n-a\n+b\n", Cause.PATCH_INVALID, "no rename"),
        ("diff --git a/x y b/x z\n", Cause.PATCH_INVALID, "cannot tell which file"),
        ("diff --git a/x.bin b/x.bin\nBinary files a/x.bin and b/x.bin differ\n", Cause.PATCH_INVALID, "only binary"),
        ("--- /dev/null\n+++ /dev/null\n@@ -0,0 +1 @@\n+x\n", Cause.PATCH_INVALID, "/dev/null"),
    ],
)
def test_refused(patch, cause, says):
    with pytest.raises(PatchRefused) as refused:
        vet(patch.encode("utf-8", "surrogateescape"), tree(x_py=LF))
    assert refused.value.cause is cause
    assert says in refused.value.detail
    refused.value.detail.encode()


def test_caps():
    with pytest.raises(PatchRefused, match="bytes; at most 10"):
        vet(LF_PATCH, tree(x_py=LF), limits=PatchLimits(max_bytes=10))
    many = "".join(NEW.format(f"b/f{number}.py") for number in range(4))
    with pytest.raises(PatchRefused, match="touches 4 files; at most 3"):
        vet(many.encode(), {}, limits=PatchLimits(max_files=3))


@pytest.mark.parametrize(
    ("path", "flagged"),
    [
        ("conftest.py", True),
        ("deep/er/conftest.py", True),
        ("pytest.ini", True),
        ("tox.ini", True),
        ("setup.cfg", True),
        ("src/sitecustomize.py", True),
        ("x.pth", True),
        ("json.py", True),
        ("unittest/mock.py", True),
        ("src/asyncio/__init__.py", True),
        ("_pytest/runner.py", True),
        (".github/workflows/ci.yml", True),
        (".gitignore", True),
        ("stats/json.py", False),
        ("src/stats/types.py", False),
        ("docs/json.md", False),
        ("calendar.py", False),  # the workspace has its own already
        ("tests/test_x.py", False),
        ("setup.py", False),
    ],
)
def test_test_infrastructure_is_flagged(path, flagged):
    workspace = tree(calendar_py=b"days = 7\n")
    vetted = vet(NEW.format("b/" + path).encode(), workspace, ("", "src"))
    assert vetted.flagged == ((path,) if flagged else ())


def test_renaming_infrastructure_away_is_flagged():
    workspace = tree(conftest_py=b"x = 1\n")
    vetted = vet(b"diff --git a/conftest.py b/y.py\nrename from conftest.py\nrename to y.py\n", workspace)
    assert vetted.flagged == ("conftest.py",)


def test_the_reference_of_the_fix_problem_is_clean():
    problem = problem_of(FIX)
    vetted = vet(problem.reference, problem.workspace)
    assert (vetted.mended, vetted.flagged, vetted.paths) == ((), (), ("stats/median.py",))


texts = st.lists(
    st.sampled_from(["a", "b", " ", "", "-x", "+y", "\\ z", "@@ q", "--- a", "é\r", "diff --git"]), max_size=12
)


@given(old=texts, new=texts, ends=st.tuples(st.booleans(), st.booleans()))
def test_a_difference_survives_parsing_and_writing(old, new, ends):
    """Whatever the lines look like, the canonical text says the same as git's own."""
    before, after = (("\n".join(lines) + "\n" * end).encode() for lines, end in zip((old, new), ends, strict=True))
    patch = difference("dir/x y.py", before, after)
    if before == after:
        assert patch == b""
        return
    parsed = parse(patch)
    once = write(parsed.files)
    assert parsed.mended == ()
    assert parse(once) == parsed
    assert write(parse(once).files) == once


@pytest.mark.parametrize("name", ["plain.py", "with space", 'quo"te', "back\\slash", "ümlaut", "tab\there"])
def test_quoting_round_trip(name):
    patch = f"--- /dev/null\n+++ {quoted('b/' + name)}\n@@ -0,0 +1 @@\n+x\n".encode()
    assert parse(patch).files[0].new_path == name


def test_a_difference_is_what_git_can_apply(folder):
    for index, (old, new) in enumerate(
        [(b"a\nb", b"a\nc"), (b"a\n", b"a"), (b"a", b"a\n"), (b"a\n", b""), (b"x\r\n", b"y\r\n")]
    ):
        place = folder / str(index) / "repo"
        place.mkdir(parents=True)
        workspace = tree(x_py=old)
        assert applied(place, workspace, vet(difference("x.py", old, new), workspace).content)["x.py"] == new
