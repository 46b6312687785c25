"""A bounded cache: least recently used goes first, and every entry has a time to live."""

from collections import OrderedDict
from collections.abc import Hashable
from threading import RLock
from typing import Any

from hotshelf.clock import ManualClock, RealClock
from hotshelf.expiry import ExpiryQueue
from hotshelf.stats import Stats

MISSING = object()


class Shelf:
    def __init__(self, capacity: int, ttl_s: float, clock: RealClock | ManualClock | None = None) -> None:
        if capacity < 1:
            raise ValueError("capacity must be at least 1")
        self.capacity = capacity
        self.ttl_s = ttl_s
        self.stats = Stats()
        self._clock = clock or RealClock()
        self._lock = RLock()
        self._values: OrderedDict[Hashable, Any] = OrderedDict()
        self._expiry = ExpiryQueue()

    def __len__(self) -> int:
        with self._lock:
            self._clear_expired()
            return len(self._values)

    def get(self, key: Hashable, default: Any = None) -> Any:
        """The value of the key, which becomes the most recently used, or the default."""
        with self._lock:
            self._clear_expired()
            if key not in self._values:
                self.stats.misses += 1
                return default
            self.stats.hits += 1
            self._values.move_to_end(key)
            return self._values[key]

    def put(self, key: Hashable, value: Any, ttl_s: float | None = None) -> None:
        with self._lock:
            if key not in self._values and len(self._values) >= self.capacity:
                self._values.popitem(last=False)
                self.stats.evicted += 1
            self._values[key] = value
            self._values.move_to_end(key)
            lifetime_s = self.ttl_s if ttl_s is None else ttl_s
            self._expiry.add(key, self._clock.now_s() + lifetime_s)

    def delete(self, key: Hashable) -> None:
        with self._lock:
            self._values.pop(key, None)

    def _clear_expired(self) -> None:
        for key in self._expiry.due(self._clock.now_s()):
            if key in self._values:
                del self._values[key]
                self.stats.expired += 1
