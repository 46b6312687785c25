"""The calls under a run's idempotency keys: the newest in memory, the others in the log. Pure.

A key never expires: what is not kept here was noted in a filter of fixed size. A key that the filter does not know is
new; one that it seems to know is looked up in the log, which decides. So memory is bounded and no key is billed twice.
"""

from collections.abc import Iterable
from hashlib import blake2b

import msgspec

from ridges.contracts import events as ev
from ridges.contracts.blobs import BlobRef

MOST_KEPT = 1_000
"""Answered calls of one run; less than 1 KiB each."""
FILTER_BYTES = 32 * 1024
"""Of a run that had more. 20,000 keys in it: one new key in 200 is looked up in vain."""
MARKS = 4
"""Bits of the filter that one key sets."""


class KeyedCall(msgspec.Struct, frozen=True, kw_only=True):
    """The call that stands under an idempotency key."""

    call_id: str
    digest: str | None
    """Of the request; null when an older gateway wrote it."""
    answered: bool = False
    reply: BlobRef | None = None
    """The provider's answer, where contents are kept."""


class IdempotencyKeys:
    """Fold of one run's keyed calls. A call that failed frees its key."""

    def __init__(self) -> None:
        self._calls: dict[str, KeyedCall] = {}
        self._answered: dict[str, None] = {}
        """Keys of those that are answered, oldest first."""
        self._forgotten: bytearray | None = None

    def __len__(self) -> int:
        return len(self._calls)

    def get(self, key: str) -> KeyedCall | None:
        """The call in flight or answered under the key, as far as it is kept."""
        return self._calls.get(key)

    def may_stand_in_log(self, key: str) -> bool:
        """Is it worth looking? Never wrong when it says no."""
        bits = self._forgotten
        if bits is None or key in self._calls:
            return False
        return all(bits[mark >> 3] & 1 << (mark & 7) for mark in _marks(key))

    def reserved(self, key: str, call_id: str, digest: str | None) -> None:
        self._calls[key] = KeyedCall(call_id=call_id, digest=digest)
        self._answered.pop(key, None)

    def answered(self, key: str, call_id: str, reply: BlobRef | None) -> None:
        call = self._calls.get(key)
        if call is not None and call.call_id == call_id:
            self._keep(key, msgspec.structs.replace(call, answered=True, reply=reply))

    def freed(self, key: str, call_id: str) -> None:
        call = self._calls.get(key)
        if call is not None and call.call_id == call_id:
            del self._calls[key]
            self._answered.pop(key, None)

    def recalled(self, key: str, call: KeyedCall) -> None:
        """What the log has under a key that was forgotten here."""
        if call.answered and key not in self._calls:
            self._keep(key, call)

    def _keep(self, key: str, call: KeyedCall) -> None:
        self._calls[key] = call
        self._answered[key] = None
        while len(self._answered) > MOST_KEPT:
            oldest = next(iter(self._answered))
            del self._answered[oldest], self._calls[oldest]
            self._note(oldest)

    def _note(self, key: str) -> None:
        bits = self._forgotten
        if bits is None:
            bits = self._forgotten = bytearray(FILTER_BYTES)
        for mark in _marks(key):
            bits[mark >> 3] |= 1 << (mark & 7)


def keyed_call_in(events: Iterable[ev.AnyEvent], key: str) -> KeyedCall | None:
    """What a run's events, in their order, say of one key."""
    found: KeyedCall | None = None
    for event in events:
        match event:
            case ev.InferenceReserved(idempotency_key=named) if named == key:
                found = KeyedCall(call_id=event.call_id, digest=event.idempotency_digest)
            case ev.InferenceMade(call_id=made) if found is not None and made == found.call_id:
                found = msgspec.structs.replace(found, answered=True, reply=event.reply)
            case ev.InferenceFailed(call_id=ended) | ev.InferenceSettled(call_id=ended) if (
                found is not None and ended == found.call_id and not found.answered
            ):
                found = None
    return found


def _marks(key: str) -> list[int]:
    digest = blake2b(key.encode(), digest_size=4 * MARKS).digest()
    return [int.from_bytes(digest[at : at + 4]) % (FILTER_BYTES * 8) for at in range(0, 4 * MARKS, 4)]
