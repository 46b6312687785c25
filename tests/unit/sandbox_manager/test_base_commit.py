"""The base commit and its index that the supervisor writes are those that git would have written."""

import os
import subprocess
from pathlib import Path

import pytest

from ridges.sandbox_manager.inside import base_commit
from ridges.sandbox_manager.inside.repository import Base

NAMES = (
    *("a.b", "a-b", "a/b", "a/c.py", "a0", "b/a/d", "b/a.d", "z" * 200, "é", "with space", 'quo"te', "back\\slash"),
    *("new\nline", "d" * 250 + "/" + "e" * 250 + "/" + "f" * 250, "x" * 7, "y" * 8, "w" * 1, "v" * 2),
)


def git(tree: Path, *arguments: str) -> bytes:
    return subprocess.run(["git", *arguments], cwd=tree, check=True, capture_output=True).stdout


@pytest.fixture
def tree(tmp_path):
    tree = tmp_path / "repo"
    for number, name in enumerate(NAMES):
        path = tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode() * number)
    (tree / os.fsdecode(b"no text \xff")).write_bytes(bytes(range(256)) * 5000)
    (tree / "program").write_text("#!/bin/sh\n")
    (tree / "program").chmod(0o755)
    (tree / "link").symlink_to("a/b")
    (tree / "empty directory").mkdir()
    return tree


def test_it_holds_what_git_would_write(tree):
    Base(str(tree))
    ours = git(tree, "ls-files", "--stage", "--debug", "-z")
    assert git(tree, "status", "--porcelain") == b""
    git(tree, "fsck", "--strict")
    (tree / ".git/index").unlink()
    git(tree, "read-tree", "HEAD")
    git(tree, "update-index", "-q", "--refresh")
    assert git(tree, "ls-files", "--stage", "--debug", "-z") == ours
    assert ours.count(b"\0") >= len(NAMES) + 3


def test_its_tree_is_the_one_that_git_makes_of_the_files(tree):
    (tree / "twice").write_bytes(bytes(range(256)) * 5000)  # the content of another, larger than a piece
    Base(str(tree))
    ours = git(tree, "rev-parse", "HEAD^{tree}")
    assert git(tree, "log", "--format=%B%an%ae%at", "--all") == b"baseRidgesridges@localhost946684800\n"
    assert git(tree, "count-objects", "-v").splitlines()[0] == b"count: 0"
    (tree / ".git/index").unlink()
    git(tree, "add", "--all", "--force")
    assert git(tree, "write-tree") == ours


def test_a_pack_may_be_larger_than_what_31_bits_count(tree, monkeypatch):
    monkeypatch.setattr(base_commit, "MOST_SMALL_OFFSET", 1000)
    Base(str(tree))
    git(tree, "fsck", "--strict")
    git(tree, "verify-pack", *map(str, (tree / ".git/objects/pack").glob("*.idx")))


def test_the_commit_is_the_same_for_the_same_files(tree, tmp_path):
    git(tmp_path, "-c", "core.symlinks=true", "init", "-q", "copy")
    subprocess.run(["cp", "-R", *map(str, tree.iterdir()), str(tmp_path / "copy")], check=True)
    (tmp_path / "copy/.git").rename(tmp_path / "another")
    Base(str(tree))
    Base(str(tmp_path / "copy"))
    assert git(tree, "rev-parse", "HEAD") == git(tmp_path / "copy", "rev-parse", "HEAD")


def test_an_empty_tree_has_an_index_too(tmp_path):
    (tmp_path / "repo").mkdir()
    Base(str(tmp_path / "repo"))
    assert git(tmp_path / "repo", "ls-files") == git(tmp_path / "repo", "status", "--porcelain") == b""
    git(tmp_path / "repo", "fsck", "--strict")
