"""Loads in flight, and how a deletion wins over them.

A load reads its source, then stores what it read. Whoever deletes or sets that key in between has
the last word: the load still answers its own callers, and stores nothing.
"""

import asyncio
import concurrent.futures
import threading
from collections.abc import Generator, Iterable
from contextlib import contextmanager

__all__ = ["Load", "Loads"]


class Load:
    """One load of one key, from before its source is read until its value is stored."""

    __slots__ = ("key", "storing", "superseded", "watchers")

    def __init__(self, key: str) -> None:
        self.key = key
        self.superseded = False
        self.storing = False
        self.watchers: list[concurrent.futures.Future[None]] = []


class Loads:
    """The loads of one cache, of all loops and threads."""

    def __init__(self) -> None:
        self.in_flight: dict[str, list[Load]] = {}
        """The loads of each key that has any."""
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.in_flight)

    def begin(self, key: str) -> Load:
        """Note that a load of `key` begins; `end` has to follow."""
        load = Load(key)
        with self._lock:
            self.in_flight.setdefault(key, []).append(load)
        return load

    def end(self, load: Load) -> None:
        """Forget a load."""
        with self._lock:
            loads = self.in_flight.get(load.key, [])
            if load in loads:
                loads.remove(load)
            if not loads:
                self.in_flight.pop(load.key, None)

    @contextmanager
    def storing(self, load: Load) -> Generator[bool, None, None]:
        """Store within this block, if it yields True: False means that a deletion has won."""
        with self._lock:
            load.storing = not load.superseded
        try:
            yield load.storing
        finally:
            with self._lock:
                load.storing = False
                watchers, load.watchers = load.watchers, []
            for watcher in watchers:
                watcher.set_result(None)

    async def supersede(self, keys: Iterable[str] | None = None) -> None:
        """Let no load of these keys (of any, by default) store from now on.

        Returns when those that are storing at this moment have done so.
        """
        if self.in_flight:
            for watcher in self._supersede(keys):
                await asyncio.shield(asyncio.wrap_future(watcher))

    def outdate(self, keys: Iterable[str] | None = None) -> None:
        """Let nobody join the loads of these keys (of any, by default) that began meanwhile.

        What one of them has found in the cache may be what is gone now.
        """
        if self.in_flight:
            self._supersede(keys)

    def _supersede(self, keys: Iterable[str] | None) -> list["concurrent.futures.Future[None]"]:
        watchers = []
        with self._lock:
            for key in list(self.in_flight) if keys is None else keys:
                for load in self.in_flight.get(key, ()):
                    load.superseded = True
                    if load.storing:
                        watchers.append(concurrent.futures.Future[None]())
                        load.watchers.append(watchers[-1])
        return watchers
