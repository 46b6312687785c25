"""What an agent's patch may touch, and what is mended in it before it is applied."""

import sys
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from pathlib import PurePosixPath

import msgspec

from ridges.contracts.faults import Cause
from ridges.evaluator.diffs import REGULAR_MODES, FileDiff, Hunk, MalformedDiff, parse, write
from ridges.evaluator.domain import Tree
from ridges.evaluator.errors import PatchRefused

_INFRASTRUCTURE = frozenset(
    {"conftest.py", "pytest.ini", ".pytest.ini", "pytest.toml", ".pytest.toml", "tox.ini", "setup.cfg"}
    | {"sitecustomize.py", "usercustomize.py"}
)
"""Files (anywhere) that steer a test run or the start of the interpreter."""
_HARMLESS_GIT = frozenset({".gitignore", ".gitkeep", ".github", ".gitlab-ci.yml"})
"""Often part of an honest change and without effect on an evaluation: put back instead of refused."""
_TEST_MODULES = frozenset(
    {"pytest", "_pytest", "py", "pluggy", "iniconfig", "packaging", "pygments", "exceptiongroup", "tomli"}
    | {"sitecustomize", "usercustomize"}
)
_SHADOWED = sys.stdlib_module_names | _TEST_MODULES
_MOST_PLACES = 200
"""At which a hunk is tried in a file; bounds the work that a hostile patch can cause."""
_NOT_PLAIN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


class PatchLimits(msgspec.Struct, frozen=True, kw_only=True):
    """How large a patch may be."""

    max_bytes: int = 5 * 1024 * 1024
    max_files: int = 500


DEFAULT_LIMITS = PatchLimits()


class VettedPatch(msgspec.Struct, frozen=True, kw_only=True):
    """A patch in canonical form that may be applied."""

    content: bytes
    mended: tuple[str, ...]
    flagged: tuple[str, ...]
    """Test infrastructure it touches, to be put back after it was applied."""
    paths: tuple[str, ...]


def vet(
    content: bytes, workspace: Tree, python_path: Sequence[str] = ("",), limits: PatchLimits = DEFAULT_LIMITS
) -> VettedPatch:
    """The patch, mended where that is safe, with the test infrastructure it touches flagged.

    Raises:
        PatchRefused: PATCH_EMPTY or PATCH_INVALID; the detail names path and rule.
    """
    if not content.strip():
        raise PatchRefused(Cause.PATCH_EMPTY, "the patch is empty")
    if len(content) > limits.max_bytes:
        raise _invalid(f"the patch has {len(content)} bytes; at most {limits.max_bytes} are allowed")
    try:
        parsed = parse(content)
    except MalformedDiff as error:
        raise _invalid(f"the patch is malformed: {error}") from error
    if not parsed.files:
        raise _invalid(
            "the patch holds no file header (--- a/path, +++ b/path); return a unified diff as git diff writes it"
        )
    if len(parsed.files) > limits.max_files:
        raise _invalid(f"the patch touches {len(parsed.files)} files; at most {limits.max_files} are allowed")
    for file in parsed.files:
        _check_file(file)
    mended = list(parsed.mended)
    kept = _without_binary(parsed.files, mended)
    files = tuple(_mend_line_ends(file, workspace, mended) for file in kept)
    paths = tuple(dict.fromkeys(path for file in files for path in file.paths))
    return VettedPatch(
        content=write(files),
        mended=tuple(dict.fromkeys(mended)),
        flagged=tuple(path for path in paths if _is_flagged(path, workspace, python_path)),
        paths=paths,
    )


def _invalid(detail: str) -> PatchRefused:
    return PatchRefused(Cause.PATCH_INVALID, detail)


def _check_file(file: FileDiff) -> None:
    for path in file.paths:
        reason = _wrong_path(path)
        if reason:
            raise _invalid(f"the patch names {path[:200]!r}: {reason}")
    if not file.paths:
        raise _invalid("the patch holds a header that names no file")
    for mode in (file.old_mode, file.new_mode, file.index_mode):
        if mode is not None and mode not in REGULAR_MODES:
            kind = {"120000": "a symbolic link", "160000": "a submodule"}.get(mode, "not a regular file")
            raise _invalid(
                f"the patch makes {file.paths[-1]!r} {kind} (mode {mode[:20]}); only 100644 and 100755 are allowed"
            )


def _wrong_path(path: str) -> str | None:
    parts = path.split("/")
    if path.startswith("/") or (len(path) > 1 and path[1] == ":"):
        return "absolute paths are not allowed"
    if any(unicodedata.category(character) in _NOT_PLAIN for character in path):
        return "control characters and bytes that are no UTF-8 are not allowed in names"
    if "\\" in path:
        return "backslashes are not allowed in names"
    if any(part in ("", ".", "..") for part in parts):
        return "empty, . and .. parts are not allowed"
    if len(path.encode()) > 1_000 or any(len(part.encode()) > 255 for part in parts):
        return "the name is too long"
    for part in parts:
        if part.lower().startswith(".git") and part not in _HARMLESS_GIT:
            return "files of git itself are not allowed"
    return None


def _without_binary(files: Iterable[FileDiff], mended: list[str]) -> list[FileDiff]:
    kept = []
    for file in files:
        if file.binary:
            mended.append(f"binary file {file.paths[-1]} left out")
        else:
            kept.append(file)
    if not kept:
        raise _invalid("the patch changes only binary files, which cannot be evaluated")
    return kept


def _is_flagged(path: str, workspace: Tree, python_path: Sequence[str]) -> bool:
    parts = PurePosixPath(path).parts
    if parts[-1] in _INFRASTRUCTURE or parts[-1].endswith(".pth") or any(part in _HARMLESS_GIT for part in parts):
        return True
    for root in python_path:
        below = PurePosixPath(path)
        if root:
            if not below.is_relative_to(root):
                continue
            below = below.relative_to(root)
        module = below.parts[0].partition(".")[0] if len(below.parts) == 1 else below.parts[0]
        if (
            below.name.endswith((".py", ".pyc", ".so"))
            and module in _SHADOWED
            and not _has_module(workspace, root, module)
        ):
            return True
    return False


def _has_module(workspace: Tree, root: str, module: str) -> bool:
    """Whether the pristine tree has that module already: then it is code under test, not a disguise."""
    stem = f"{root.rstrip('/')}/{module}" if root else module
    return f"{stem}.py" in workspace or any(name.startswith(stem + "/") for name in workspace)


def _mend_line_ends(file: FileDiff, workspace: Tree, mended: list[str]) -> FileDiff:
    """The file's hunks with the line ends that the target really has.

    A carriage return may be real content: the hunks stay as they are when they fit the file as they are.
    """
    if file.crlf_headers:
        mended.append("CRLF line ends of the patch")
    target = workspace.get(file.old_path) if file.old_path else None
    if target is None:
        return _with_lines(file, _strip_cr) if file.crlf_headers else file
    lines = target.content.decode("utf-8", "surrogateescape").split("\n")
    if _fits(file, lines):
        return file
    stripped = _with_lines(file, _strip_cr)
    if stripped != file and (_fits(stripped, lines) or file.crlf_headers):
        mended.append(f"CRLF to LF in {file.old_path}")
        return stripped
    added = _with_lines(file, _add_cr)
    if added != file and _fits(added, lines):
        mended.append(f"LF to CRLF in {file.old_path}")
        return added
    return file


def _with_lines(file: FileDiff, change: Callable[[tuple[str, ...]], tuple[str, ...]]) -> FileDiff:
    hunks = tuple(msgspec.structs.replace(hunk, lines=change(hunk.lines)) for hunk in file.hunks)
    return msgspec.structs.replace(file, hunks=hunks)


def _strip_cr(lines: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(line.removesuffix("\r") for line in lines)


def _add_cr(lines: tuple[str, ...]) -> tuple[str, ...]:
    """Every line but one that ends the file without a line end."""
    unended = {index - 1 for index, line in enumerate(lines) if line.startswith("\\")}
    return tuple(
        line if line.startswith("\\") or line.endswith("\r") or index in unended else line + "\r"
        for index, line in enumerate(lines)
    )


def _fits(file: FileDiff, lines: list[str]) -> bool:
    return all(_occurs(hunk, lines) for hunk in file.hunks)


def _occurs(hunk: Hunk, lines: list[str]) -> bool:
    wanted = hunk.side("-")
    hint = max(hunk.old_start - 1, 0)
    if lines[hint : hint + len(wanted)] == wanted:
        return True
    if not wanted or len(wanted) > len(lines):
        return not wanted
    starts = islice((index for index, line in enumerate(lines) if line == wanted[0]), _MOST_PLACES)
    return any(lines[index : index + len(wanted)] == wanted for index in starts)
