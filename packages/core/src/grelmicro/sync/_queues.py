"""Who waits for a lock in this process: first come, first served."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

__all__ = ["Queue"]


class Queue:
    """Those who wait for one lock; only the first of them talks to the backend."""

    def __init__(self) -> None:
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._nudge: asyncio.Future[None] | None = None

    def __len__(self) -> int:
        return len(self._waiters)

    @asynccontextmanager
    async def turn(self) -> AsyncGenerator[None, None]:
        """Wait until all who came before have gone; the block is one's turn."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(turn)
        try:
            if self._waiters[0] is not turn:
                await turn
            yield
        finally:
            is_first = self._waiters[0] is turn
            self._waiters.remove(turn)
            if is_first and self._waiters and not self._waiters[0].done():
                self._waiters[0].set_result(None)

    def watch(self) -> "asyncio.Future[None]":
        """A future that is done when the lock is given back in this process; for the first."""
        self._nudge = asyncio.get_running_loop().create_future()
        return self._nudge

    def freed(self) -> None:
        """The lock was given back in this process."""
        if self._nudge is not None and not self._nudge.done():
            self._nudge.set_result(None)
