"""The agent's repository: one fresh commit before it starts, the difference against it after everything is dead.

The agent may do to ``repo/.git`` what it likes. The base is kept in files without names that only the supervisor has
open, and put back into a git directory of our own with our own configuration for the comparison: no hook, filter,
attribute, file system monitor or index of the agent's is ever used.
"""

from __future__ import annotations

import os
import stat
import sys

from ridges.sandbox_manager.inside.base_commit import PIECE, write_commit, write_index
from ridges.sandbox_manager.inside.untouched import is_untouched

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_CONFIG = """[core]
\trepositoryformatversion = 0
\tfilemode = true
\tbare = false
\tlogallrefupdates = true
[user]
\tname = Ridges
\temail = ridges@localhost
[gc]
\tauto = 0
"""
_ATTRIBUTES = "* -text -eol -filter -ident -working-tree-encoding !diff !merge\n"
"""Bytes are bytes: a patch has to apply to the very files that the agent saw."""
GIT_SETTINGS = (
    *("-c", "core.compression=0", "-c", "core.fsync=none"),
    *("-c", "core.safecrlf=false", "-c", "core.quotePath=true"),
)
AS_PATCH = (
    *("--binary", "--no-color", "--no-ext-diff", "--no-textconv", "--no-renames"),
    *("--src-prefix=a/", "--dst-prefix=b/"),
)
NO_BYTE_CODE = (":(exclude,glob)**/__pycache__/**", ":(exclude,glob)**/*.pyc")


class GitFailed(Exception):
    """git is missing or refused."""


class Base:
    """The base commit of a work tree, kept out of reach."""

    def __init__(self, work_tree: str) -> None:
        """Make the work tree a git repository with one commit of everything in it."""
        self.work_tree = work_tree
        self.kept: dict[str, int] = {}
        """Descriptors by their names in a git directory."""
        self._indexed_at_ns = 0
        git_dir = os.path.join(work_tree, ".git")
        _make_git_dir(git_dir)
        write_index(os.path.join(git_dir, "index"), write_commit(git_dir, work_tree))
        self._keep(git_dir)

    def _keep(self, git_dir: str) -> None:
        pack_dir = os.path.join(git_dir, "objects", "pack")
        names = ["index", "refs/heads/main"] + ["objects/pack/" + name for name in os.listdir(pack_dir)]
        for name in names:
            self.kept[name] = _anonymous_file(os.path.dirname(self.work_tree))
            with open(os.path.join(git_dir, name), "rb") as source:
                _copy(source.fileno(), self.kept[name])
        self._indexed_at_ns = os.stat(os.path.join(git_dir, "index")).st_mtime_ns

    def is_untouched(self) -> bool:
        """Whether it is plain to see that there is no difference. Call when nobody works there any more."""
        index = os.pread(self.kept["index"], os.fstat(self.kept["index"]).st_size, 0)
        return is_untouched(self.work_tree, index, self._indexed_at_ns)

    def write_difference(self, git_dir: str, stdout: int) -> None:
        """Write the binary diff of the work tree against the base.

        Args:
            git_dir: where to put our own git directory; must not exist.
            stdout: descriptor that git writes to.
        """
        self.put_back(git_dir)
        _forget_nested_repositories(self.work_tree)
        environment = git_environment(git_dir, self.work_tree)
        _git(["add", "-A", "--ignore-errors", "--", ".", *NO_BYTE_CODE], environment, tolerate=(1,))
        _git(["diff", "--cached", *AS_PATCH, "refs/heads/main"], environment, stdout=stdout)

    def put_back(self, git_dir: str, objects: bool = True) -> None:
        """Make a git directory of our own that holds the base commit (its objects perhaps later) and its index.

        Raises:
            GitFailed: the repository is gone.
            FileExistsError: somebody put something in the way; nothing that was there is written to or followed.
        """
        if not stat.S_ISDIR(os.lstat(self.work_tree).st_mode):
            raise GitFailed("the repository is not a directory any more")
        _make_git_dir(git_dir)
        self._copy_kept(git_dir, objects=False)
        if objects:
            self.put_back_objects(git_dir)
        # git looks into files that are as old as its index: a change in the same second may not show in their facts
        os.utime(os.path.join(git_dir, "index"), ns=(self._indexed_at_ns, self._indexed_at_ns))

    def put_back_objects(self, git_dir: str) -> None:
        """What ``put_back`` left out. Raises ``FileExistsError`` like it."""
        self._copy_kept(git_dir, objects=True)

    def _copy_kept(self, git_dir: str, *, objects: bool) -> None:
        for name, kept in self.kept.items():
            if name.startswith("objects/") == objects:
                os.lseek(kept, 0, os.SEEK_SET)
                with open(os.path.join(git_dir, name), "xb") as target:
                    _copy(kept, target.fileno())


def _make_git_dir(git_dir: str) -> None:
    """What ``git init`` makes, without templates, hooks and 3 ms."""
    for name in ("objects/info", "objects/pack", "refs/heads", "refs/tags", "info"):
        os.makedirs(os.path.join(git_dir, name))
    for name, content in (("HEAD", "ref: refs/heads/main\n"), ("config", _CONFIG), ("info/attributes", _ATTRIBUTES)):
        with open(os.path.join(git_dir, name), "x") as file:
            file.write(content)


def _forget_nested_repositories(work_tree: str) -> None:
    """A ``.git`` below would turn its directory into a submodule, whose files no diff shows."""
    for directory, names, files in os.walk(work_tree):
        if directory != work_tree and (".git" in names or ".git" in files):
            remove_tree(os.path.join(directory, ".git"))
        if ".git" in names:
            names.remove(".git")


def remove_tree(path: str, *options: str) -> None:
    """Remove what is there, however the agent built it."""
    command = ["rm", "-rf", *options, "--", path]
    wait_for(spawn_program("rm", command, {"PATH": os.environ.get("PATH", os.defpath)}), command, (1,))


def empty(directory: str, mounted: Sequence[str]) -> None:
    """Remove what is in it. A process for each of a hundred thousand files would take minutes.

    Args:
        directory: on a file system of the sandbox's own.
        mounted: names in it that lead to mounts (an interpreter installed below /tmp); these stay.
    """
    for name in os.listdir(directory):
        path = os.path.join(directory, name)
        try:
            os.unlink(path)
        except OSError:
            remove_tree(path, *(("--one-file-system",) if name in mounted else ()))


def git_environment(git_dir: str, work_tree: str) -> dict[str, str]:
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": "/nonexistent",
        "LC_ALL": "C",
        "GIT_DIR": git_dir,
        "GIT_WORK_TREE": work_tree,
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_ATTR_NOSYSTEM": "1",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_OPTIONAL_LOCKS": "0",
    }


def _git(
    arguments: Sequence[str], environment: dict[str, str], stdout: int | None = None, tolerate: tuple[int, ...] = ()
) -> None:
    wait_for(_spawn([*GIT_SETTINGS, *arguments], environment, stdout=stdout), arguments, tolerate)


def _spawn(arguments: list[str], environment: dict[str, str], stdout: int | None = None) -> int:
    return spawn_program("git", ["git", *arguments], environment, stdout)


def spawn_program(
    program: str,
    argv: list[str],
    environment: dict[str, str],
    stdout: int | None = None,
) -> int:
    """Start it with nothing open but what is given; its complaints go to the supervisor's stderr."""
    with open(os.devnull, "r+b", buffering=0) as nothing:
        actions = [
            (os.POSIX_SPAWN_DUP2, nothing.fileno(), 0),
            (os.POSIX_SPAWN_DUP2, nothing.fileno() if stdout is None else stdout, 1),
        ]
        try:
            return os.posix_spawnp(program, argv, environment, file_actions=actions)
        except FileNotFoundError:
            raise GitFailed(f"{program} is not installed in the sandbox") from None


def wait_for(pid: int, arguments: Sequence[str], tolerate: tuple[int, ...] = ()) -> None:
    """Until it has ended. Raises ``GitFailed`` when it failed."""
    _, status = os.waitpid(pid, 0)
    if status and os.WEXITSTATUS(status) not in tolerate:
        sys.stderr.flush()
        raise GitFailed(f"git {' '.join(arguments)} ended with status {status}")


def _anonymous_file(directory: str) -> int:
    """A file without a name: nobody else can open, change or remove it."""
    try:
        return os.open(directory, os.O_TMPFILE | os.O_RDWR, 0o600)
    except OSError:  # the file system has none
        return os.memfd_create("base")


def _copy(source: int, target: int) -> None:
    while os.sendfile(target, source, None, PIECE):
        pass
