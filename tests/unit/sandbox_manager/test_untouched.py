"""A repository that holds what it held has no difference, by git's word too; one that may not is git's to compare."""

import os
import shutil
import time
from pathlib import Path

import pytest

from ridges.sandbox_manager.inside.base_commit import digest_of, write_index
from ridges.sandbox_manager.inside.repository import Base, GitFailed
from ridges.sandbox_manager.inside.untouched import is_untouched


@pytest.fixture
def tree(tmp_path):
    tree = tmp_path / "repo"
    (tree / "a/b").mkdir(parents=True)
    (tree / "a/b/c.txt").write_text("one\n")
    (tree / "a/other.txt").write_text("two\n")
    (tree / "program").write_text("#!/bin/sh\n")
    (tree / "program").chmod(0o755)
    (tree / "link").symlink_to("a/b/c.txt")
    (tree / "kept.pyc").write_bytes(b"\0")
    (tree / ".gitignore").write_text("*.ignored\n")
    return tree


def difference(base: Base, tmp_path: Path) -> bytes:
    """git's."""
    place = tmp_path / "difference"
    with place.open("wb") as file:
        base.write_difference(str(tmp_path / "git-dir"), file.fileno())
    return place.read_bytes()


def nothing(tree: Path) -> None:
    pass


def the_same_again(tree: Path) -> None:
    (tree / "a/b/c.txt").write_text("one\n")
    (tree / "program").unlink()
    (tree / "program").write_text("#!/bin/sh\n")
    (tree / "program").chmod(0o700)


def the_same_in_new_directories(tree: Path) -> None:
    shutil.copytree(tree / "a", tree / "copy")
    shutil.rmtree(tree / "a")
    (tree / "copy").rename(tree / "a")


def only_byte_code(tree: Path) -> None:
    (tree / "a/__pycache__").mkdir()
    (tree / "a/__pycache__/x").write_text("x")
    (tree / "new.pyc").write_text("x")
    (tree / "kept.pyc").write_text("changed")


def only_directories_and_its_git(tree: Path) -> None:
    (tree / "empty/within").mkdir(parents=True)
    (tree / ".git/hooks").mkdir()
    (tree / ".git/index").unlink()


@pytest.mark.parametrize(
    "change", [nothing, the_same_again, the_same_in_new_directories, only_byte_code, only_directories_and_its_git]
)
def test_what_is_untouched_has_no_difference(tree, tmp_path, change):
    base = Base(str(tree))
    change(tree)
    assert base.is_untouched()
    assert difference(base, tmp_path) == b""


def another_content_of_the_same_size(tree: Path) -> None:
    (tree / "a/b/c.txt").write_text("eno\n")


def another_content_with_the_old_times(tree: Path) -> None:
    file, facts = tree / "a/b/c.txt", (tree / "a/b/c.txt").stat()
    file.write_text("eno\n")
    os.utime(file, ns=(facts.st_atime_ns, facts.st_mtime_ns))


def a_file_more(tree: Path) -> None:
    (tree / "a/b/new").write_text("")


def a_file_less(tree: Path) -> None:
    (tree / "a/other.txt").unlink()


def another_mode(tree: Path) -> None:
    (tree / "program").chmod(0o644)


def another_target(tree: Path) -> None:
    (tree / "link").unlink()
    (tree / "link").symlink_to("a/b/c.tx_")


def a_link_in_place_of_a_file(tree: Path) -> None:
    (tree / "a/other.txt").unlink()
    (tree / "a/other.txt").symlink_to("two\n")


def a_link_in_place_of_a_directory(tree: Path) -> None:
    (tree / "a").rename(tree.parent / "elsewhere")
    (tree / "a").symlink_to("../elsewhere")


def a_repository_within(tree: Path) -> None:
    (tree / "a/.git").mkdir()
    (tree / "a/.git/HEAD").write_text("ref: refs/heads/main\n")
    (tree / "a/inner").write_text("inner\n")


@pytest.mark.parametrize(
    "change",
    [
        another_content_of_the_same_size,
        another_content_with_the_old_times,
        a_file_more,
        a_file_less,
        another_mode,
        another_target,
        a_link_in_place_of_a_file,
        a_link_in_place_of_a_directory,
        a_repository_within,
    ],
)
@pytest.mark.parametrize("later", [False, True])
def test_what_has_a_difference_is_touched(tree, tmp_path, change, later):
    base = Base(str(tree))
    if later:  # than the moment that the index was written in
        time.sleep(0.02)
    change(tree)
    assert not base.is_untouched()
    assert difference(base, tmp_path).startswith(b"diff --git ")


def a_pipe(tree: Path) -> None:
    os.mkfifo(tree / "pipe")


def a_pipe_in_place_of_byte_code(tree: Path) -> None:
    (tree / "kept.pyc").unlink()
    os.mkfifo(tree / "kept.pyc")


def an_ignored_file(tree: Path) -> None:
    (tree / "x.ignored").write_text("x")


@pytest.mark.parametrize("change", [a_pipe, an_ignored_file])
def test_what_is_not_plain_to_see_is_gits_to_compare(tree, tmp_path, change):
    base = Base(str(tree))
    change(tree)
    assert not base.is_untouched()
    assert difference(base, tmp_path) == b""


def test_a_pipe_in_place_of_byte_code_keeps_nobody_waiting(tree, tmp_path):
    base = Base(str(tree))
    a_pipe_in_place_of_byte_code(tree)
    assert base.is_untouched()
    assert difference(base, tmp_path) == b""


def test_a_link_in_place_of_the_repository_is_told(tree, tmp_path):
    base = Base(str(tree))
    tree.rename(tmp_path / "elsewhere")
    tree.symlink_to("elsewhere")
    assert not base.is_untouched()
    with pytest.raises(GitFailed, match="not a directory any more"):
        difference(base, tmp_path)


def test_a_file_as_new_as_its_index_is_read(tmp_path):
    """What the clock did not tell from the moment of the commit may have another content with the same facts."""
    (tmp_path / "repo").mkdir()
    file, index = tmp_path / "repo/file", tmp_path / "index"
    file.write_text("one")
    before = digest_of(os.fsencode(file), file.stat())
    file.write_text("two")
    write_index(str(index), [(b"file", file.stat(), before)])
    changed_at = max(file.stat().st_mtime_ns, file.stat().st_ctime_ns)
    assert not is_untouched(str(file.parent), index.read_bytes(), changed_at)
    assert is_untouched(str(file.parent), index.read_bytes(), changed_at + 1)


def test_thousands_of_directories_are_gits_to_search(tree):
    base = Base(str(tree))
    for number in range(10_020):
        (tree / f"a/{number}").mkdir()
    assert not base.is_untouched()
