"""A shelf that loads what is missing."""

from collections.abc import Callable, Hashable
from threading import Event
from typing import Any

from hotshelf.clock import ManualClock, RealClock
from hotshelf.shelf import MISSING, Shelf


class LoadingShelf(Shelf):
    def __init__(self, capacity: int, ttl_s: float, clock: RealClock | ManualClock | None = None) -> None:
        super().__init__(capacity, ttl_s, clock)
        self._loading: dict[Hashable, Event] = {}

    def get_or_load(self, key: Hashable, loader: Callable[[Hashable], Any]) -> Any:
        """The value of the key; if it is missing, `loader(key)` is called for it."""
        while (value := self.get(key, MISSING)) is MISSING:
            done = self._loading.get(key)
            if done is not None:
                done.wait()
                continue
            done = self._loading[key] = Event()
            value = loader(key)
            self.put(key, value)
            del self._loading[key]
            done.set()
        return value
