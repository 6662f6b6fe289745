"""Who waits in this process for leases that are given back anywhere."""

import asyncio
from collections.abc import Generator
from contextlib import contextmanager

__all__ = ["AWAITED", "Waiters"]

AWAITED = 60.0
"""Seconds for which a row says that somebody waits; it is said anew after half of them."""


class Waiters:
    """Wakes those who wait for a name, and knows which rows say that somebody does."""

    def __init__(self) -> None:
        self._waiting: dict[str, set[asyncio.Future[None]]] = {}
        self._said: dict[str, float] = {}

    @contextmanager
    def waiting(self, name: str) -> Generator["asyncio.Future[None]"]:
        """A future that is done when the lease may be free."""
        freed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        futures = self._waiting.setdefault(name, set())
        futures.add(freed)
        try:
            yield freed
        finally:
            futures.discard(freed)
            if not futures and self._waiting.get(name) is futures:
                del self._waiting[name]

    def heard(self, payload: bytes | None) -> None:
        """A lease was given back; None when some may have been."""
        names = [*self._waiting] if payload is None else [payload.decode()]
        for name in names:
            for freed in self._waiting.get(name, ()):
                if not freed.done():
                    freed.set_result(None)

    def is_to_be_said(self, name: str, now: float) -> bool:
        """Whether the row has to be told that somebody waits."""
        return self._said.get(name, now) <= now

    def said(self, name: str, now: float) -> None:
        """The row has been told; forget the rows whose time is over."""
        self._said.pop(name, None)
        while self._said and next(iter(self._said.values())) <= now:
            del self._said[next(iter(self._said))]
        self._said[name] = now + AWAITED / 2
