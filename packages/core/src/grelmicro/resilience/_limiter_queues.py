"""Those who wait for permits of one key, in one process and event loop."""

import asyncio
from collections.abc import Generator
from contextlib import contextmanager
from time import monotonic

__all__ = ["Queue", "queue_of"]


class Queue:
    """A line, in the order of arrival: only who stands first asks the backend."""

    def __init__(self) -> None:
        self.members = 0
        """Those in line, the first one included."""
        self._lock = asyncio.Lock()
        self._expected = 0.0

    async def turn(self, until: float | None) -> bool:
        """Wait to be the first, until a time of the monotonic clock; whether that came about."""
        try:
            async with asyncio.timeout(None if until is None else max(0.0, until - monotonic())):
                await self._lock.acquire()
        except TimeoutError:
            return False
        return True

    def next(self) -> None:
        """Let the next one be the first."""
        self._lock.release()

    def expect(self, seconds: float) -> None:
        """Note when who is first expects its permits."""
        self._expected = monotonic() + seconds

    @property
    def retry_after(self) -> float:
        """Seconds until who is first expects its permits: none come sooner."""
        return max(0.0, self._expected - monotonic())


@contextmanager
def queue_of(queues: dict[object, Queue], place: object) -> Generator[Queue, None, None]:
    """The queue of a place, for the block; it is there as long as somebody stands in it."""
    queue = queues.setdefault(place, Queue())
    queue.members += 1
    try:
        yield queue
    finally:
        queue.members -= 1
        if not queue.members:
            del queues[place]
