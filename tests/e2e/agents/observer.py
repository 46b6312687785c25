"""Looks at everything that the contract promises and prints it as one line of JSON; returns a patch as a str."""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

SECONDS = int(os.environ["AGENT_TIMEOUT"])
IMPORTED_AS = __name__
MODULE_WHILE_IMPORTING = sys.modules.get(__name__)
FILE_WHILE_IMPORTING = __file__
ENVIRONMENT_WHILE_IMPORTING = dict(os.environ)
PATCH = """\
diff --git a/NOTES.txt b/NOTES.txt
new file mode 100644
--- /dev/null
+++ b/NOTES.txt
@@ -0,0 +1 @@
+noted
"""


@dataclasses.dataclass
class Thought:
    """Importing this fails unless the module is in ``sys.modules`` while it is executed."""

    text: str
    children: list[Thought] = dataclasses.field(default_factory=list)


def run(*command: str, **options) -> str:
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60, check=False, **options
    )
    return done.stdout.strip() if done.returncode == 0 else f"exit {done.returncode}: {done.stdout}"


def git(*arguments: str) -> str:
    return run("git", "-C", "repo", *arguments)


def repository() -> dict[str, object]:
    objects = git("cat-file", "--batch-all-objects", "--batch-check=%(objecttype)").split()
    return {
        "is_work_tree": git("rev-parse", "--is-inside-work-tree"),
        "commits": git("rev-list", "--count", "--all", "--reflog"),
        "commit_objects": objects.count("commit"),
        "parents": git("log", "-1", "--format=%P"),
        "remotes": git("remote"),
        "tags": git("tag"),
        "branches": len(git("branch", "--all").splitlines()),
        "other_commits_in_reflogs": sorted(
            set(git("log", "--walk-reflogs", "--all", "--format=%H").split()) - {git("rev-parse", "HEAD")}
        ),
        "stashes": git("stash", "list"),
        "unreachable": git("fsck", "--unreachable", "--no-reflogs", "--no-progress"),
        "status": git("status", "--porcelain"),
    }


def machine() -> dict[str, object]:
    home = Path(os.environ["HOME"])
    (home / "some_tool" / "cache").mkdir(parents=True)
    (home / "some_tool" / "cache" / "entry").write_text("kept")
    with tempfile.NamedTemporaryFile("w+", delete=False) as temporary:
        temporary.write("temporary")
    results = []
    threads = [threading.Thread(target=lambda number=number: results.append(number)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    return {
        "home_file": (home / "some_tool" / "cache" / "entry").read_text(),
        "temporary_file": Path(temporary.name).read_text(),
        "threads": sorted(results),
        "pipe": run("bash", "-c", "printf 'b\\na\\n' | sort | head -1"),
        "programs": {name: bool(shutil.which(name)) for name in ("git", "bash", "python3", "pytest", "node")},
        "packages": {name: imports(name) for name in ("requests", "pydantic", "numpy", "pytest")},
        "pytest": run("python3", "-m", "pytest", "--version").split()[:1],
        "child_python": run("python3", "-c", "import requests, pydantic; print('imported')"),
        "node": run("node", "--print", "6 * 7") if shutil.which("node") else None,
    }


def imports(name: str) -> bool:
    try:
        importlib.import_module(name)
    except ImportError:
        return False
    return True


def agent_main(*arguments, **named):
    given = arguments[0] if arguments else {}
    seen: dict[str, object] = {
        "positional_arguments": len(arguments),
        "named_arguments": sorted(named),
        "argument_type": type(given).__name__,
        "argument_keys": sorted(given),
        "statement": given.get("problem_statement"),
        "cwd": str(Path.cwd()),
        "files": sorted(path.name for path in Path().iterdir()),
        "agent_file_is_me": Path("agent.py").read_bytes() == Path(__file__).read_bytes(),
        "input": json.loads(Path("input.json").read_text("utf-8")),
        "repo_files": sorted(path.name for path in Path("repo").iterdir()),
        "environment": ENVIRONMENT_WHILE_IMPORTING,
        "seconds": SECONDS,
        "file": FILE_WHILE_IMPORTING,
        "in_sys_modules": MODULE_WHILE_IMPORTING is not None and MODULE_WHILE_IMPORTING is sys.modules[IMPORTED_AS],
        "thought": dataclasses.asdict(Thought("a", [Thought("b")])),
        "repository": repository(),
        "config_global": run("git", "config", "--global", "user.name", "Some Agent")
        + run("git", "config", "--global", "user.name"),
        "machine": machine(),
    }
    print("OBSERVED " + json.dumps(seen), flush=True)
    return PATCH
