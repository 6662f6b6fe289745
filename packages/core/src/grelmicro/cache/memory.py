"""The cache backend that lives in this process."""

import asyncio
import threading
from collections.abc import Mapping, Sequence
from time import monotonic
from types import TracebackType
from typing import Self

from grelmicro._threads import noted_loop
from grelmicro.cache._expiry import ExpiryIndex

__all__ = ["MemoryCacheAdapter", "MemoryCacheBackend"]

_SWEEP_EVERY = 1.0
"""Seconds between two sweeps of an open adapter."""

_SWEEP_BATCH = 2_000
"""Most entries that one sweep of the timer removes, so that the loop stays free."""

_SWEEP_SHARE = 4
"""Entries that every write removes, if they are due: twice what it adds, and more."""

_Entry = tuple[bytes, float]


class MemoryCacheAdapter:
    """A cache in the memory of this process, for one or many event loops and threads.

    Entries expire by the monotonic clock, so that a step of the wall clock changes nothing. What
    has expired is never returned; it is removed when it is met, by the writes that follow, and
    while the adapter is open by a timer, always a bounded number at a time.

    Async calls also work while it is not open. Callers in threads need it open: see `cached`.
    """

    _loop: asyncio.AbstractEventLoop | None = None

    def __init__(self) -> None:
        self.entries: dict[str, _Entry] = {}
        """Bytes with the monotonic time at which they expire: for readers, not for writers."""
        self._expiry = ExpiryIndex()
        self._lock = threading.Lock()
        self._entered = 0
        self._timer: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> Self:
        """Note the running loop, and sweep on it."""
        self._entered += 1
        self._loop = noted_loop()
        self._schedule()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop sweeping; the entries stay for the next time it is opened."""
        self._entered -= 1
        if not self._entered:
            self._loop = None
            self._unschedule()

    def get_nowait(self, *, key: str) -> bytes | None:
        """Get the bytes under `key` at once; None when there are none, or they have expired."""
        entry = self._live(key)
        return None if entry is None else entry[0]

    async def get(self, *, key: str) -> bytes | None:
        """Get the bytes under `key`; None when there are none, or they have expired."""
        return self.get_nowait(key=key)

    async def get_with_ttl(self, *, key: str) -> tuple[bytes, float] | None:
        """Get the bytes and the seconds they will live; None when there are none."""
        entry = self._live(key)
        return None if entry is None else (entry[0], entry[1] - monotonic())

    async def get_many(self, *, keys: Sequence[str]) -> Mapping[str, bytes]:
        """Get what there is under `keys`."""
        found = {key: self.get_nowait(key=key) for key in keys}
        return {key: value for key, value in found.items() if value is not None}

    async def set(self, *, key: str, value: bytes, ttl: float) -> None:
        """Store bytes for `ttl` seconds."""
        self._put({key: value}, ttl)

    async def set_many(self, *, entries: Mapping[str, bytes], ttl: float) -> None:
        """Store every entry for `ttl` seconds."""
        self._put(entries, ttl)

    async def touch(self, *, key: str, ttl: float) -> bool:
        """Let an entry live `ttl` seconds from now; False when there is none."""
        now = monotonic()
        with self._lock:
            entry = self.entries.get(key)
            if entry is None or entry[1] <= now:
                return False
            self._place(key, entry[0], now + ttl)
        return True

    async def delete(self, *, key: str) -> None:
        """Delete a key; nothing happens when it is absent."""
        with self._lock:
            self._drop(key)

    async def delete_many(self, *, keys: Sequence[str]) -> None:
        """Delete every key that is there."""
        with self._lock:
            for key in keys:
                self._drop(key)

    async def clear(self, *, prefix: str = "") -> None:
        """Remove the entries whose key begins with `prefix`; all of them by default."""
        with self._lock:
            if prefix:
                for key in [key for key in self.entries if key.startswith(prefix)]:
                    self._drop(key)
            else:
                self.entries.clear()
                self._expiry.clear()

    def count(self, *, prefix: str = "") -> int:
        """Count the entries that have not expired; takes time in proportion to all of them."""
        now = monotonic()
        with self._lock:
            entries = list(self.entries.items())
        return sum(entry[1] > now and key.startswith(prefix) for key, entry in entries)

    def _live(self, key: str) -> _Entry | None:
        entry = self.entries.get(key)
        if entry is None or entry[1] > monotonic():
            return entry
        with self._lock:
            if self.entries.get(key) is entry:
                self._drop(key)
        return None

    def _put(self, entries: Mapping[str, bytes], ttl: float) -> None:
        now = monotonic()
        with self._lock:
            for key, value in entries.items():
                self._place(key, value, now + ttl)
            self._remove_due(now, _SWEEP_SHARE * len(entries))

    def _place(self, key: str, value: bytes, deadline: float) -> None:
        old = self.entries.get(key)
        if old is not None:
            self._expiry.remove(key, old[1])
        self.entries[key] = (value, deadline)
        self._expiry.add(key, deadline)

    def _drop(self, key: str) -> None:
        entry = self.entries.pop(key, None)
        if entry is not None:
            self._expiry.remove(key, entry[1])

    def _remove_due(self, now: float, limit: int) -> None:
        for key in self._expiry.due(now, limit):
            del self.entries[key]

    def _sweep(self) -> None:
        with self._lock:
            self._remove_due(monotonic(), _SWEEP_BATCH)
        self._schedule()

    def _schedule(self) -> None:
        self._unschedule()
        if self._loop is not None:
            self._timer = self._loop.call_later(_SWEEP_EVERY, self._sweep)

    def _unschedule(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    _shipped = {"get": get, "set": set, "delete": delete, "get_nowait": get_nowait}  # noqa: A003, RUF012  # its own
    """These as they are here: while a class has them, `entries` is all that a lookup reads."""


MemoryCacheBackend = MemoryCacheAdapter
"""The older name of `MemoryCacheAdapter`."""
