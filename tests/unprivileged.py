"""Commands as a user without any right, where the tests themselves run as root."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

UID = 64_123
"""Nobody's: neither a name nor a home."""
_BECOME = """
set -eu
uid=$1 stage=$2; shift 2
mount --make-rprivate /
while [ "$1" != -- ]; do mkdir -p "$stage/$2"; mount --rbind "$1" "$stage/$2"; shift 2; done
shift
while [ "$1" != -- ]; do mount -t tmpfs -o mode=755 tmpfs "$1"; shift; done
shift
while [ "$1" != -- ]; do mkdir -p "$1"; mount --rbind "$stage/$2" "$1"; shift 2; done
shift
exec setpriv --reuid "$uid" --regid "$uid" --clear-groups --bounding-set -all -- "$@"
"""
"""In a mount namespace of its own, with what lies below directories closed to others (an interpreter below /root)."""
NEEDED = (Path(sys.base_prefix), Path(sys.prefix), Path(__file__).parents[1])


def need_root() -> None:
    """Skips where the tests cannot become somebody else."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user; these tests themselves run as one without rights")
    for program in ("unshare", "setpriv", "mount"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed (util-linux)")
    tried = subprocess.run(["unshare", "--mount", "true"], capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"no mount namespace can be made here: {tried.stderr.strip()}")


def without_rights(stage: Path) -> list[str]:
    """What to put before a command. ``stage`` is an empty directory of this command alone."""
    shown = [path for path in NEEDED if not any(other in path.parents for other in NEEDED)]
    closed = {path: first for path in shown if (first := _first_closed(path))}
    numbered = {path: str(number) for number, path in enumerate(closed)}
    binds = [word for path, number in numbered.items() for word in (str(path), number)]
    covers = [str(path) for path in dict.fromkeys(closed.values())]
    become = ["unshare", "--mount", "sh", "-c", _BECOME, "become", str(UID), str(stage)]
    return [*become, *binds, "--", *covers, "--", *binds, "--"]


def _first_closed(path: Path) -> Path | None:
    return next((step for step in (*reversed(path.parents), path) if not step.stat().st_mode & 0o001), None)
