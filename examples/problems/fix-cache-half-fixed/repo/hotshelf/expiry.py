"""Which entries are due: a heap of deadlines."""

import heapq
from collections.abc import Hashable, Iterator
from itertools import count


class ExpiryQueue:
    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Hashable]] = []
        self._serial = count()

    def add(self, key: Hashable, deadline_s: float) -> None:
        heapq.heappush(self._heap, (deadline_s, next(self._serial), key))

    def due(self, now_s: float) -> Iterator[Hashable]:
        """Take out and yield the keys whose deadline has come."""
        while self._heap and self._heap[0][0] <= now_s:
            yield heapq.heappop(self._heap)[2]
