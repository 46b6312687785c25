"""The checksum of nats-server's records, against the vectors that its authors publish."""

import pytest

from ridges.chassis.jetstream.highway_hash import highway_hash_64

KEY = bytes(range(32))
PUBLISHED = (
    0x907A56DE22C26E53,
    0x7EAB43AAC7CDDD78,
    0xB8D0569AB0B53D62,
    0x5C6BEFAB8A463D80,
    0xF205A46893007EDA,
    0x2B8A1668E4A94541,
    0xBD4CCC325BEFCA6F,
    0x4D02AE1738F59482,
)
"""Of 0, 1, 2 … bytes with the values 0, 1, 2 …. Source: github.com/google/highwayhash, highwayhash_test.cc."""


@pytest.mark.parametrize(("size", "expected"), list(enumerate(PUBLISHED)))
def test_published_vectors(size, expected):
    assert highway_hash_64(KEY, bytes(range(size))) == expected


def test_every_bit_of_every_length_counts():
    content = bytes(range(80))
    hashes = {highway_hash_64(KEY, content[:size]) for size in range(81)}
    assert len(hashes) == 81
    flipped = {
        highway_hash_64(KEY, content[:at] + bytes([content[at] ^ (1 << bit)]) + content[at + 1 :])
        for at in range(80)
        for bit in range(8)
    }
    assert len(flipped | {highway_hash_64(KEY, content)}) == 641
