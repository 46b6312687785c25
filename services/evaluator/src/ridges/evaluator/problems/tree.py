"""Trees of regular files: from a folder, to a deterministic tar and back."""

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from ridges.evaluator.domain import SourceFile, Tree

MAX_TREE_BYTES = 256 * 1024 * 1024
MAX_TREE_FILES = 20_000
SANDBOX_UID = 1000
_LEFTOVERS = frozenset({"__pycache__", ".pytest_cache", ".ruff_cache", ".mypy_cache", ".hypothesis", ".DS_Store"})


class TreeRefused(ValueError):
    """The folder holds something other than regular files and folders, or too much."""


def read_tree(folder: Path) -> dict[str, SourceFile]:
    """All regular files below the folder. Caches that tools leave behind are not part of it.

    Raises:
        TreeRefused: a symbolic link, a device, a ``.git`` folder, a name that is not UTF-8, or over the size limits.
        OSError: a file cannot be read.
    """
    files: dict[str, SourceFile] = {}
    size = 0
    for path in _walk(folder):
        name = path.relative_to(folder).as_posix()
        try:
            name.encode()
        except UnicodeEncodeError:
            raise TreeRefused(f"{name!r}: the file name is not UTF-8; rename it") from None
        content = path.read_bytes()
        size += len(content)
        if size > MAX_TREE_BYTES or len(files) >= MAX_TREE_FILES:
            raise TreeRefused(f"more than {MAX_TREE_FILES} files or {MAX_TREE_BYTES} bytes; remove what is not needed")
        files[name] = SourceFile(content, executable=bool(path.stat().st_mode & 0o100))
    return dict(sorted(files.items()))


def _walk(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.name in _LEFTOVERS or path.suffix == ".pyc":
            continue
        if path.is_symlink():
            raise TreeRefused(f"{path.name} is a symbolic link; replace it by the file itself")
        if path.name == ".git":
            raise TreeRefused("there is a .git in it, which may show the solution; remove it")
        if path.is_dir():
            yield from _walk(path)
        elif path.is_file():
            yield path
        else:
            raise TreeRefused(f"{path.name} is neither a regular file nor a folder; remove it")


def fingerprint(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """Changes when a file of the folder changes; cheap to compute."""
    found = []
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        found.append((str(path), status.st_mtime_ns, status.st_size))
    return tuple(found)


def pack(tree: Tree, *, open_end: bool = False) -> bytes:
    """A tar that is equal for equal trees: sorted, uid and gid 1000, mtime 0, only regular files and folders.

    With an open end another tar may follow.
    """
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        folders: set[str] = set()
        for name, file in sorted(tree.items()):
            for parent in reversed(PurePosixPath(name).parents[:-1]):
                if str(parent) not in folders:
                    folders.add(str(parent))
                    tar.addfile(_entry(str(parent), tarfile.DIRTYPE, 0o755))
            entry = _entry(name, tarfile.REGTYPE, 0o755 if file.executable else 0o644)
            entry.size = len(file.content)
            tar.addfile(entry, io.BytesIO(file.content))
        size = tar.offset
    return buffer.getvalue()[:size] if open_end else buffer.getvalue()


def _entry(name: str, kind: bytes, mode: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode, entry.mtime = kind, mode, 0
    entry.uid = entry.gid = SANDBOX_UID
    return entry


def unpack(content: bytes) -> dict[str, SourceFile]:
    """The tree that ``pack`` was given.

    Raises:
        TreeRefused: the bytes are no tar of regular files and folders.
    """
    return dict(files_of(content))


def files_of(content: bytes) -> Iterator[tuple[str, SourceFile]]:
    """The same file by file, as they stand in the tar."""
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as tar:
            for entry in tar:
                if entry.isdir():
                    continue
                stream = tar.extractfile(entry) if entry.isreg() else None
                if stream is None:
                    raise TreeRefused(f"{entry.name} is not a regular file")
                yield entry.name, SourceFile(stream.read(), executable=bool(entry.mode & 0o100))
    except tarfile.TarError as error:
        raise TreeRefused(f"not a tar: {error}") from error


def below(tree: Tree, folder: str) -> dict[str, SourceFile]:
    """The files below a folder of the tree, named relative to it."""
    prefix = folder + "/"
    return {name[len(prefix) :]: file for name, file in tree.items() if name.startswith(prefix)}


def moved(tree: Tree, folder: str) -> dict[str, SourceFile]:
    """The tree, put into a folder."""
    return {f"{folder}/{name}": file for name, file in tree.items()}
