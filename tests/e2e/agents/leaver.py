"""Commits, resets, edits, makes files, and leaves by ``sys.exit`` in a thread-laden process without returning."""

import subprocess
import sys
from pathlib import Path


def git(*arguments):
    subprocess.run(["git", "-C", "repo", *arguments], check=True, stdout=subprocess.DEVNULL)


def agent_main(problem):
    print("first words", flush=True)
    repo = Path("repo")
    git("config", "--global", "user.email", "agent@example.org")
    (repo / "committed.txt").write_text("committed\n")
    git("add", "-A")
    git("commit", "-q", "-m", "a commit of the agent")
    (repo / "lost.txt").write_text("lost\n")
    git("add", "-A")
    git("commit", "-q", "-m", "another")
    git("reset", "-q", "--hard", "HEAD~1")
    (repo / ".gitignore").write_text("*.ignored\n")
    (repo / "some.ignored").write_text("ignored\n")
    (repo / "uncommitted.txt").write_text("uncommitted\n")
    (repo / "README.md").write_text("replaced\n")
    git("checkout", "-q", "-b", "elsewhere")
    print("last words", flush=True)
    sys.exit(3)
