"""Bits turned in the files that nats-server wrote."""

import struct
from pathlib import Path

HEAD = struct.Struct("<IQQH")
HAS_HEADERS = 1 << 31


def blocks(store: Path) -> list[Path]:
    """The files of the stream EVENTS below a folder, in order."""
    return sorted(store.rglob("EVENTS/msgs/*.blk"), key=lambda path: int(path.stem))


def flip(store: Path, position: int, where: str) -> None:
    """Turn one bit of the event at a position: of its ``payload``, or of the ``length`` of its record."""
    for block in blocks(store):
        content, at = bytearray(block.read_bytes()), 0
        while at < len(content):
            length, found, _, _ = HEAD.unpack_from(content, at)
            length &= ~HAS_HEADERS
            if found == position:
                content[at if where == "length" else at + length - 40] ^= 4
                block.write_bytes(content)
                return
            at += length
    raise AssertionError(f"no event at position {position} in {store}")
