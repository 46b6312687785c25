"""Files into the workspace and out of it. Going out, every name is the agent's choice."""

from __future__ import annotations

import errno
import os
import stat

from ridges.sandbox_manager.inside.tar_reader import DIRECTORY, SYMLINK, DamagedTar, Member, members

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

PIECE = 1 << 20


def unpack(read: Callable[[int], bytes], root: str) -> None:
    """Unpack a tar: nothing outside of root, no ``repo/.git``.

    Args:
        read: returns exactly so many bytes, fewer only at the tar's end.
        root: an existing directory.

    Raises:
        DamagedTar: not a tar of ours.
    """
    for member in members(read):
        parts = [part for part in member.name.split("/") if part not in ("", ".")]
        if ".." in parts or member.name.startswith("/"):
            raise DamagedTar(f"{member.name!r} leads out of the workspace")
        if not parts or parts[:2] == ["repo", ".git"]:
            _copy(read, member.size, os.devnull, os.O_WRONLY)
        else:
            _unpack_one(read, member, os.path.join(root, *parts))


def _unpack_one(read: Callable[[int], bytes], member: Member, path: str) -> None:
    if member.kind == DIRECTORY:
        os.makedirs(path, 0o755, exist_ok=True)
        return
    os.makedirs(os.path.dirname(path), 0o755, exist_ok=True)
    if os.path.lexists(path):
        os.unlink(path)
    if member.kind == SYMLINK:
        os.symlink(member.target, path)
    else:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        _copy(read, member.size, path, flags, 0o755 if member.mode & 0o111 else 0o644)


def _copy(read: Callable[[int], bytes], size: int, path: str, flags: int, mode: int = 0) -> None:
    fd = os.open(path, flags, mode)
    try:
        while size > 0:
            piece = read(min(PIECE, size))
            if not piece:
                raise DamagedTar(f"the tar ends within {path!r}")
            size -= len(piece)
            view = memoryview(piece)
            while view:
                view = view[os.write(fd, view) :]
    finally:
        os.close(fd)


def read_output(path: str, max_bytes: int) -> tuple[bytes | None, str | None]:
    """Contents, or what is wrong: missing, not_a_regular_file, too_large. Follows no symlink, waits for no FIFO."""
    try:
        fd = _open_without_symlinks(path)
    except OSError as error:
        absent = (errno.ENOENT, errno.ENAMETOOLONG, errno.EACCES)
        return None, "missing" if error.errno in absent else "not_a_regular_file"
    try:
        facts = os.fstat(fd)
        if not stat.S_ISREG(facts.st_mode):
            return None, "not_a_regular_file"
        if facts.st_size > max_bytes:
            return None, "too_large"
        content = bytearray()
        while len(content) <= max_bytes:
            piece = os.read(fd, min(PIECE, max_bytes + 1 - len(content)))
            if not piece:
                return bytes(content), None
            content += piece
        return None, "too_large"
    finally:
        os.close(fd)


def _open_without_symlinks(path: str) -> int:
    parts = [part for part in path.split("/") if part]
    fd = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
    for part in parts[:-1]:
        parent = fd
        try:
            fd = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
        finally:
            os.close(parent)
    try:
        return os.open(parts[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY, dir_fd=fd)
    finally:
        os.close(fd)
