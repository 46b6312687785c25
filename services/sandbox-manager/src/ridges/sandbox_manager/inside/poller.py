"""One epoll, one callback per descriptor: an event loop without the start-up cost of one."""

from __future__ import annotations

import select

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

READ = select.EPOLLIN
WRITE = select.EPOLLOUT
GONE = select.EPOLLHUP | select.EPOLLERR
"""Comes whether asked for or not."""


class Poller:
    """Callbacks get the event mask; they may watch, change and forget any descriptor."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callable[[int], object]] = {}
        self._masks: dict[int, int] = {}

    def watch(self, fd: int, mask: int, callback: Callable[[int], object]) -> None:
        """Call back when one of the events of the mask, an error or a hang-up is there."""
        self._epoll.register(fd, mask)
        self._callbacks[fd] = callback
        self._masks[fd] = mask

    def change(self, fd: int, mask: int) -> None:
        """Wait for other events. Descriptors that are not watched any more are ignored."""
        if self._masks.get(fd, mask) != mask:
            self._epoll.modify(fd, mask)
            self._masks[fd] = mask

    def forget(self, fd: int) -> None:
        """Stop watching; call before the descriptor is closed."""
        if self._callbacks.pop(fd, None) is not None:
            del self._masks[fd]
            self._epoll.unregister(fd)

    def poll(self, timeout_s: float | None) -> None:
        """Wait at most so long, run the callbacks of what happened."""
        for fd, mask in self._epoll.poll(timeout_s):
            callback = self._callbacks.get(fd)
            if callback is not None:
                callback(mask)
