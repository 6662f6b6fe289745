"""The synchronization backend that lives in this process."""

import asyncio
import threading
from collections import deque
from time import monotonic
from types import TracebackType
from typing import NamedTuple, Self

from grelmicro.sync._local import local_of

__all__ = ["MemorySyncAdapter"]

_SWEEP_SHARE = 2
"""Leases that every new one looks at, to remove those that ended: more than it adds."""


class _Lease(NamedTuple):
    token: str
    number: int
    deadline: float


class MemorySyncAdapter:
    """Locks in the memory of this process: for its tasks and threads, not for other processes.

    Leases end by the monotonic clock. Async calls also work while it is not open.
    """

    _loop: asyncio.AbstractEventLoop | None = None

    def __init__(self) -> None:
        self._leases: dict[str, _Lease] = {}
        self._order: deque[str] = deque()
        self._number = 0
        self._lock = threading.Lock()
        self._entered = 0

    async def __aenter__(self) -> Self:
        """Note the running loop, for callers in threads."""
        self._entered += 1
        self._loop = asyncio.get_running_loop()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """See background work end. Leases stay for the next time it is opened, or end."""
        self._entered -= 1
        if not self._entered:
            await local_of(self).settle()
            self._loop = None

    async def acquire(self, *, name: str, token: str, duration: float) -> int:
        """Take or extend the lease; its fencing token, 0 when somebody else holds it."""
        now = monotonic()
        with self._lock:
            held = self._leases.get(name)
            if held is not None and held.deadline > now:
                if held.token != token:
                    return 0
                number = held.number
            else:
                number = self._number = self._number + 1
                self._sweep(now)
                self._order.append(name)
            self._leases[name] = _Lease(token, number, now + duration)
        return number

    async def release(self, *, name: str, token: str) -> bool:
        """Give the lease back; False when `token` does not hold it."""
        with self._lock:
            if not self._holds(name, token):
                return False
            del self._leases[name]
        return True

    async def locked(self, *, name: str) -> bool:
        """Whether anybody holds the lease."""
        with self._lock:
            held = self._leases.get(name)
            return held is not None and held.deadline > monotonic()

    async def owned(self, *, name: str, token: str) -> bool:
        """Whether `token` holds the lease."""
        with self._lock:
            return self._holds(name, token)

    def _holds(self, name: str, token: str) -> bool:
        held = self._leases.get(name)
        return held is not None and held.token == token and held.deadline > monotonic()

    def _sweep(self, now: float) -> None:
        """Look at the oldest names, and forget those whose lease ended."""
        for _ in range(min(_SWEEP_SHARE, len(self._order))):
            name = self._order.popleft()
            held = self._leases.get(name)
            if held is not None and held.deadline <= now:
                del self._leases[name]
            elif held is not None:
                self._order.append(name)
