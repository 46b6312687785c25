"""The supervisor's own tar reader reads what Python's tarfile and GNU tar write, and refuses the rest."""

import io
import tarfile

import pytest

from ridges.sandbox_manager.inside.tar_reader import DamagedTar, members

LONG = "/".join(["directory-with-a-name"] * 12)


def written(tar_format: int, *entries: tuple[str, bytes, bytes, str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tar_format) as tar:
        for name, kind, content, target in entries:
            entry = tarfile.TarInfo(name)
            entry.type, entry.size, entry.linkname, entry.mode = kind, len(content), target, 0o755
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def read_all(content: bytes):
    stream = io.BytesIO(content)
    return [
        (member.name, member.kind, member.mode, stream.read(member.size), member.target)
        for member in members(stream.read)
    ]


@pytest.mark.parametrize("tar_format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_kind_with_short_long_and_foreign_names(tar_format):
    names = ["a", "ü \n'\"", LONG, "x" * 100, "y" * 101, f"{LONG}/ü"]
    entries = [
        entry
        for name in names
        for entry in (
            (f"{name}/", tarfile.DIRTYPE, b"", ""),
            (f"{name}/file", tarfile.REGTYPE, name.encode() * 40, ""),
            (f"{name}/empty", tarfile.REGTYPE, b"", ""),
            (f"{name}/link", tarfile.SYMTYPE, b"", name),
        )
    ]
    kinds = {tarfile.DIRTYPE: "directory", tarfile.REGTYPE: "file", tarfile.SYMTYPE: "symlink"}
    assert [(name.rstrip("/"), *rest) for name, *rest in read_all(written(tar_format, *entries))] == [
        (name.rstrip("/"), kinds[kind], 0o755, content, target) for name, kind, content, target in entries
    ]


def test_old_names_with_a_prefix():
    name = "p" * 90 + "/" + "n" * 60
    assert read_all(written(tarfile.USTAR_FORMAT, (name, tarfile.REGTYPE, b"x", "")))[0][0] == name


def test_nothing_is_a_tar_of_nothing():
    assert read_all(b"") == []


@pytest.mark.parametrize("kind", [tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_other_kinds_are_refused(kind):
    with pytest.raises(DamagedTar, match="neither a file"):
        read_all(written(tarfile.GNU_FORMAT, ("odd", kind, b"", "target")))


def test_damage_is_refused():
    good = bytearray(written(tarfile.GNU_FORMAT, ("a", tarfile.REGTYPE, b"x", "")))
    good[0] ^= 1
    for bad in (bytes(good), b"x" * 5120, b"short"):
        with pytest.raises(DamagedTar):
            read_all(bad)
