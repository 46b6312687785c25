"""A repository that holds what it held needs no git; one that may not is git's to compare."""

import os
import shutil
import time
from pathlib import Path

import pytest

from ridges.sandbox_manager.inside import repository
from ridges.sandbox_manager.inside.repository import Base, GitFailed


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


@pytest.fixture
def git_was_asked(monkeypatch):
    asked: list[bool] = []
    put_back = Base.put_back

    def noted(*arguments, **options):
        asked.append(True)
        return put_back(*arguments, **options)

    monkeypatch.setattr(Base, "put_back", noted)
    return asked


def difference(base: Base, tmp_path: Path) -> bytes:
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
def test_no_git_where_nothing_changed(tree, tmp_path, git_was_asked, change):
    base = Base(str(tree))
    change(tree)
    assert difference(base, tmp_path) == b""
    assert not git_was_asked


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
def test_every_change_is_shown(tree, tmp_path, git_was_asked, change, later):
    base = Base(str(tree))
    if later:  # than the moment that the index was written in
        time.sleep(0.02)
    change(tree)
    assert difference(base, tmp_path).startswith(b"diff --git ")
    assert git_was_asked


def a_pipe(tree: Path) -> None:
    os.mkfifo(tree / "pipe")


def a_pipe_in_place_of_byte_code(tree: Path) -> None:
    (tree / "kept.pyc").unlink()
    os.mkfifo(tree / "kept.pyc")


def an_ignored_file(tree: Path) -> None:
    (tree / "x.ignored").write_text("x")


@pytest.mark.parametrize("change", [a_pipe, a_pipe_in_place_of_byte_code, an_ignored_file])
def test_what_git_would_not_show_is_no_difference(tree, tmp_path, change):
    base = Base(str(tree))
    change(tree)
    assert difference(base, tmp_path) == b""


def test_a_link_in_place_of_the_repository_is_told(tree, tmp_path):
    base = Base(str(tree))
    tree.rename(tmp_path / "elsewhere")
    tree.symlink_to("elsewhere")
    with pytest.raises(GitFailed, match="not a directory any more"):
        difference(base, tmp_path)


def test_many_directories_are_gits_to_search(tree, tmp_path, git_was_asked, monkeypatch):
    monkeypatch.setattr(repository, "_forget_nested_repositories", lambda _: None)
    base = Base(str(tree))
    for number in range(10_020):
        (tree / f"a/{number}").mkdir()
    assert difference(base, tmp_path) == b""
    assert git_was_asked
