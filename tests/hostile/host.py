"""What sandboxes could leave on their host, whatever they hid: mounts, and processes of the users they run as.

Containers have their own check, by label: their processes and mounts go with them.
"""

import asyncio
import os
from pathlib import Path

SANDBOX_UIDS = (range(1_879_100_000, 1_879_101_024), range(64_000, 65_024))
"""Those that a manager which is root gives to bubblewrap. Another manager's sandboxes are its own user."""
OF_OTHERS = ("/docker/", "/run/docker/", "/pytest-of-")
"""Places of containers and of other tests, which come and go meanwhile."""
PATIENCE_S = 30.0


class Host:
    """Mounts and processes at the time it is made."""

    def __init__(self) -> None:
        self._before = found()

    async def left_since(self) -> list[str]:
        """What has come since and stays."""
        new = found().keys() - self._before.keys()
        give_up_at = asyncio.get_running_loop().time() + PATIENCE_S
        while left := {each: words for each, words in found().items() if each in new}:
            if asyncio.get_running_loop().time() > give_up_at:
                break
            await asyncio.sleep(0.2)
        return list(left.values())


def found() -> dict[str, str]:
    return {**mounts(), **processes()}


def mounts() -> dict[str, str]:
    """By id and place."""
    split = [(line, line.split()) for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return {
        f"mount {words[0]} {words[4]}": line
        for line, words in split
        if not any(place in f"{words[4]}/" for place in OF_OTHERS)
    }


def processes() -> dict[str, str]:
    """Of the users that sandboxes are, by pid and start; those of another living manager are its own."""
    kept = {}
    for pid in (int(directory.name) for directory in Path("/proc").glob("[0-9]*")):
        try:
            uid, parent, started = _facts(pid)
            if not _of_sandbox(uid):
                continue
            while _of_sandbox(_facts(parent)[0]) or _words(parent).startswith("ridges fork server"):
                parent = _facts(parent)[1]
            words = _words(pid)
        except OSError:
            continue
        if parent in (1, os.getpid()):
            kept[f"{pid} {started}"] = f"pid {pid} of uid {uid}: {words}"
    return kept


def _words(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")


def _of_sandbox(uid: int) -> bool:
    return any(uid in uids for uids in SANDBOX_UIDS)


def _facts(pid: int) -> tuple[int, int, str]:
    """(uid, parent, start)"""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return Path(f"/proc/{pid}").stat().st_uid, int(fields[1]), fields[19]
