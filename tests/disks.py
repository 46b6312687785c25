"""Disks of our own: a small one in memory, and one whose copy is what a power cut would leave. Both need root."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from small_disk import SmallDisk


def need_root(what: str) -> None:
    """Skips where nothing may be mounted; in CI, where it may, that is a failure."""
    if os.geteuid() == 0:
        return
    reason = f"{what} needs root, to mount a disk of its own"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@contextmanager
def small_disk_at(folder: Path, size_mb: int) -> Iterator[SmallDisk]:
    """A file system of that size in memory, mounted at the folder."""
    folder.mkdir(parents=True)
    sh("mount", "-t", "tmpfs", "-o", f"size={size_mb}m", "tmpfs", str(folder))
    try:
        yield SmallDisk(folder)
    finally:
        unmount(folder)


def grow(disk: SmallDisk, size_mb: int) -> None:
    sh("mount", "-o", f"remount,size={size_mb}m", str(disk.path))


@contextmanager
def mounted_image(image: Path, folder: Path) -> Iterator[None]:
    """The file system in the image file, mounted at the folder by way of a loop device."""
    folder.mkdir(parents=True, exist_ok=True)
    sh("mount", "-o", "loop", str(image), str(folder))
    try:
        yield
    finally:
        unmount(folder)


def new_image(image: Path, size_mb: int) -> Path:
    """An ext4 file system in a file."""
    sh("truncate", "-s", f"{size_mb}M", str(image))
    sh("mkfs.ext4", "-q", "-F", str(image))
    return image


def copy_live(image: Path, copy: Path) -> None:
    """What the disk holds this moment, without what the kernel has not written back: the view of a power cut."""
    sh("cp", "--sparse=always", str(image), str(copy))


def sh(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"


def unmount(folder: Path) -> None:
    """Also when something still has a file open there; the loop device goes with it."""
    if subprocess.run(["umount", str(folder)], capture_output=True, check=False).returncode:
        subprocess.run(["umount", "-l", str(folder)], capture_output=True, check=False)
