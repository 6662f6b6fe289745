"""The synchronization backend that lives in this process."""

import asyncio
import threading
from time import monotonic
from types import TracebackType
from typing import Self

from grelmicro._threads import noted_loop
from grelmicro.sync._local import local_of

__all__ = ["MemorySyncAdapter"]

_ROOM = 1024
"""Leases that there may be before those that ended are looked for."""

_Lease = tuple[str, int, float]
"""Whose it is, its number, and when it ends."""


class MemorySyncAdapter:
    """Locks in the memory of this process: for its tasks and threads, not for other processes.

    Leases end by the monotonic clock. Async calls also work while it is not open.
    """

    _loop: asyncio.AbstractEventLoop | None = None

    def __init__(self) -> None:
        self._leases: dict[str, _Lease] = {}
        self._room = _ROOM
        self._number = 0
        self._lock = threading.Lock()
        self._entered = 0

    async def __aenter__(self) -> Self:
        """Note the running loop, for callers in threads."""
        self._entered += 1
        self._loop = noted_loop()
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

    def acquire_nowait(self, *, name: str, token: str, duration: float) -> int:
        """Take or extend the lease; its fencing token, 0 when somebody else holds it."""
        now = monotonic()
        with self._lock:
            held = self._leases.get(name)
            if held is not None and held[2] > now:
                if held[0] != token:
                    return 0
                number = held[1]
            else:
                number = self._number = self._number + 1
                if len(self._leases) >= self._room:
                    self._forget_ended(now)
            self._leases[name] = token, number, now + duration
        return number

    def release_nowait(self, *, name: str, token: str) -> bool:
        """Give the lease back; False when `token` does not hold it."""
        with self._lock:
            held = self._leases.get(name)
            if held is None or held[0] != token or held[2] <= monotonic():
                return False
            del self._leases[name]
        return True

    async def acquire(self, *, name: str, token: str, duration: float) -> int:
        """Take or extend the lease; its fencing token, 0 when somebody else holds it."""
        return self.acquire_nowait(name=name, token=token, duration=duration)

    async def release(self, *, name: str, token: str) -> bool:
        """Give the lease back; False when `token` does not hold it."""
        return self.release_nowait(name=name, token=token)

    _shipped_acquire, _shipped_release = acquire, release

    async def locked(self, *, name: str) -> bool:
        """Whether anybody holds the lease."""
        held = self._leases.get(name)
        return held is not None and held[2] > monotonic()

    async def owned(self, *, name: str, token: str) -> bool:
        """Whether `token` holds the lease."""
        held = self._leases.get(name)
        return held is not None and held[0] == token and held[2] > monotonic()

    def _forget_ended(self, now: float) -> None:
        """Forget the leases that ended; next time when there are twice as many as are left."""
        self._leases = {name: held for name, held in self._leases.items() if held[2] > now}
        self._room = max(_ROOM, 2 * len(self._leases))
