"""Files into the workspace and out of it. Going out, every name is the agent's choice."""

from __future__ import annotations

import errno
import os
import stat
import tarfile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import BinaryIO

PIECE = 1 << 20


class BadInput(Exception):
    """A tar of ours that this does not unpack."""


def unpack(stream: BinaryIO, root: str) -> None:
    """Unpack a tar: regular files, directories, relative symlinks; nothing outside of root, no ``repo/.git``."""
    with tarfile.open(fileobj=stream, mode="r|") as archive:
        for member in archive:
            parts = [part for part in member.name.split("/") if part not in ("", ".")]
            if ".." in parts or member.name.startswith("/"):
                raise BadInput(f"{member.name!r} leads out of the workspace")
            if parts and parts[:2] != ["repo", ".git"]:
                _unpack_one(archive, member, os.path.join(root, *parts))


def _unpack_one(archive: tarfile.TarFile, member: tarfile.TarInfo, path: str) -> None:
    if member.isdir():
        os.makedirs(path, 0o755, exist_ok=True)
        return
    os.makedirs(os.path.dirname(path), 0o755, exist_ok=True)
    if os.path.lexists(path):
        os.unlink(path)
    if member.issym():
        os.symlink(member.linkname, path)
        return
    source = archive.extractfile(member) if member.isreg() else None
    if source is None:
        raise BadInput(f"{member.name!r} is neither a file nor a directory nor a symlink")
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o755 if member.mode & 0o111 else 0o644)
    with open(fd, "wb", buffering=0) as target:
        while True:
            piece = source.read(PIECE)
            if not piece:
                break
            target.write(piece)


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
