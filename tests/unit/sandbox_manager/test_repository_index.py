"""The index that the supervisor writes is the one that git would have written."""

import os
import subprocess
from pathlib import Path

import pytest

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


def test_an_empty_tree_has_an_index_too(tmp_path):
    (tmp_path / "repo").mkdir()
    Base(str(tmp_path / "repo"))
    assert git(tmp_path / "repo", "ls-files") == git(tmp_path / "repo", "status", "--porcelain") == b""
    git(tmp_path / "repo", "fsck", "--strict")
