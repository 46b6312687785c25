"""HighwayHash with 64 bits: the checksum that nats-server writes behind each message in its files.

Source: github.com/google/highwayhash, the portable implementation; 0.2 to 0.8 ms for an event of 1 KB in this one.
"""

import struct

_MASK = (1 << 64) - 1
_LOW = (1 << 32) - 1
_MUL0 = (0xDBE6D5D5FE4CCE2F, 0xA4093822299F31D0, 0x13198A2E03707344, 0x243F6A8885A308D3)
_MUL1 = (0x3BD39E10CB0EF593, 0xC0ACF169B5F18A8C, 0xBE5466CF34E90C6C, 0x452821E638D01377)
PACKET_BYTES = 32

_Lanes = list[int]
_Packet = tuple[int, ...]
_State = tuple[_Lanes, _Lanes, _Lanes, _Lanes]
"""v0, v1, mul0, mul1: four lanes of 64 bits each."""


def highway_hash_64(key: bytes, content: bytes) -> int:
    """The hash of the content under a key of 32 bytes."""
    words = struct.unpack("<4Q", key)
    state = (
        [a ^ b for a, b in zip(_MUL0, words, strict=True)],
        [a ^ _halves_swapped(b) for a, b in zip(_MUL1, words, strict=True)],
        list(_MUL0),
        list(_MUL1),
    )
    rest = len(content) % PACKET_BYTES
    whole = len(content) - rest
    for packet in struct.iter_unpack("<4Q", content[:whole]):
        _update(state, packet)
    if rest:
        _update_rest(state, content[whole:])
    for _ in range(4):
        v0 = state[0]
        _update(state, tuple(_halves_swapped(v0[lane]) for lane in (2, 3, 0, 1)))
    return sum(part[0] for part in state) & _MASK


def _update(state: _State, packet: _Packet) -> None:
    v0, v1, mul0, mul1 = state
    for lane in range(4):
        v1[lane] = (v1[lane] + mul0[lane] + packet[lane]) & _MASK
        mul0[lane] ^= (v1[lane] & _LOW) * (v0[lane] >> 32)
        v0[lane] = (v0[lane] + mul1[lane]) & _MASK
        mul1[lane] ^= (v0[lane] & _LOW) * (v1[lane] >> 32)
    for source, target in ((v1, v0), (v0, v1)):
        for lane in (0, 2):
            low, high = _zipped(source[lane], source[lane + 1])
            target[lane] = (target[lane] + low) & _MASK
            target[lane + 1] = (target[lane + 1] + high) & _MASK


def _zipped(even: int, odd: int) -> tuple[int, int]:
    """The bytes of two lanes, mixed."""
    low = (
        (((even & 0xFF000000) | (odd & 0xFF00000000)) >> 24)
        | (((even & 0xFF0000000000) | (odd & 0xFF000000000000)) >> 16)
        | (even & 0xFF0000)
        | ((even & 0xFF00) << 32)
        | ((odd & 0xFF00000000000000) >> 8)
        | ((even << 56) & _MASK)
    )
    high = (
        (((odd & 0xFF000000) | (even & 0xFF00000000)) >> 24)
        | (odd & 0xFF0000)
        | ((odd & 0xFF0000000000) >> 16)
        | ((odd & 0xFF00) << 24)
        | ((even & 0xFF000000000000) >> 8)
        | ((odd & 0xFF) << 48)
        | (even & 0xFF00000000000000)
    )
    return low, high


def _update_rest(state: _State, rest: bytes) -> None:
    """The last, short packet."""
    v0, v1, _, _ = state
    size = len(rest)
    for lane in range(4):
        v0[lane] = (v0[lane] + (size << 32) + size) & _MASK
        v1[lane] = _turned(v1[lane] & _LOW, size) | _turned(v1[lane] >> 32, size) << 32
    packet, words, odd = bytearray(PACKET_BYTES), size & ~3, size & 3
    packet[:words] = rest[:words]
    if size & 16:
        packet[28:] = rest[-4:]
    elif odd:
        packet[16:19] = bytes((rest[words], rest[words + (odd >> 1)], rest[-1]))
    _update(state, struct.unpack("<4Q", bytes(packet)))


def _turned(half: int, bits: int) -> int:
    return ((half << bits) | (half >> (32 - bits))) & _LOW


def _halves_swapped(word: int) -> int:
    return (word >> 32) | ((word << 32) & _MASK)
