"""The place of this process in a server's queues of those who wait for leases."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from time import monotonic

from grelmicro._process import current

__all__ = ["GRACE", "Waiters"]

GRACE = 0.05
"""Seconds for which a lease that was given back is kept for the process that is told of it."""

_AGAIN = 1.0
"""Seconds after which a process takes its place in a queue anew: it may have lost it unheard."""

_ENLISTS = 0.002
"""Seconds that a waiter is there before it stands in line: it may get what it asks for at once, or
be handed over the lease by another task."""

_LOOKS = 0.5
"""Seconds between two looks where nothing can be heard."""

_LEAVES = 0.02
"""Seconds after which a process of whose tasks nobody waits any more leaves a queue. The next
waiter may come at once: tasks of one process wait one after the other."""

_FORGETS = 5.0
"""Seconds after which it does not listen any more, either."""


class _Room:
    """Those who wait for one name."""

    __slots__ = ("enlisted_until", "in_line", "left_at", "loop", "timer", "waiting")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.waiting: set[asyncio.Future[None]] = set()
        self.enlisted_until = 0.0
        self.in_line = False
        """Whether the server may have a place for this process."""
        self.left_at = 0.0
        self.timer: asyncio.TimerHandle | None = None

    def wake(self) -> None:
        for freed in self.waiting:
            if not freed.done():
                freed.set_result(None)


class Waiters:
    """Waits for a server's word that a lease was given back.

    The server keeps a queue of processes for each name, and tells the first of them alone, for
    which the lease is kept a moment. Without that order, whichever process is fastest wins, and
    others starve.

    Args:
        listen: Begins to listen for a name, if that was not done; False where nothing can be heard.
        enlist: Takes a place in the queue of a name, behind the others, unless there is one.
        delist: Gives that place up.
        unlisten: Listens no more.
        locked: Whether somebody holds the lease, for where nothing can be heard.
    """

    def __init__(
        self,
        *,
        listen: Callable[[str], bool],
        enlist: Callable[[str], Awaitable[object]],
        delist: Callable[[str], Awaitable[object]],
        unlisten: Callable[[str], object],
        locked: Callable[[str], Awaitable[bool]],
    ) -> None:
        self._listen = listen
        self._enlist = enlist
        self._delist = delist
        self._unlisten = unlisten
        self._locked = locked
        self._rooms: dict[str, _Room] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._random = os.urandom(8).hex()

    @property
    def id(self) -> str:
        """What this process is called in queues; a forked child is another."""
        return f"{self._random}-{current.id}"

    def __len__(self) -> int:
        return sum(len(room.waiting) for room in self._rooms.values())

    async def wait(self, name: str, timeout: float) -> None:
        """Wait until the lease may be free, for `timeout` seconds at most."""
        room = self._room(name)
        freed: asyncio.Future[None] = room.loop.create_future()
        room.waiting.add(freed)
        try:
            if not self._listen(name):
                await self._look_by_itself(name, timeout)
                return
            if room.enlisted_until <= monotonic():
                await asyncio.wait([freed], timeout=_ENLISTS)
                if not freed.done():
                    await self._stand_in_line(name, room)
            await asyncio.wait([freed], timeout=timeout)
        finally:
            room.waiting.discard(freed)
            room.left_at = monotonic()
            if not room.waiting and (room.timer is None or room.in_line):
                self._look_later(name, room, _LEAVES)

    async def _look_by_itself(self, name: str, timeout: float) -> None:
        """Wait where nothing can be heard; who waits for a lock asks for it more often, too."""
        deadline = monotonic() + timeout
        while (left := deadline - monotonic()) > 0:
            if not await self._locked(name):
                return
            await asyncio.sleep(min(_LOOKS, left))

    async def _stand_in_line(self, name: str, room: _Room) -> None:
        room.in_line = True  # before: who is cancelled may be enlisted
        room.enlisted_until = monotonic() + _AGAIN
        try:
            await self._enlist(name)
        except Exception:
            room.enlisted_until = 0.0
            raise

    def unless_waiting(self, name: str) -> str:
        """What this process is called, if nobody of it waits for that name; else empty.

        Its place in that queue, if it has one, is of no use to anybody.
        """
        room = self._rooms.get(name)
        return "" if room is not None and room.waiting else self.id

    def heard(self, name: str, whom: str) -> None:
        """A lease was given back, and is kept for a process; or for nobody, when that is empty."""
        room = self._rooms.get(name)
        if room is not None and whom in ("", self.id):
            room.enlisted_until, room.in_line = 0.0, False
            room.wake()

    def missed(self, name: str | None = None) -> None:
        """A lease may have been given back unheard: that of a name, or any."""
        for each in [*self._rooms] if name is None else [name]:
            if (room := self._rooms.get(each)) is not None:
                room.enlisted_until = 0.0
                room.wake()

    def close(self) -> None:
        """Forget everybody; who waits still is told nothing any more."""
        for room in self._rooms.values():
            if room.timer is not None:
                room.timer.cancel()
        self._rooms.clear()

    def _room(self, name: str) -> _Room:
        loop = asyncio.get_running_loop()
        room = self._rooms.get(name)
        if room is None or room.loop is not loop:
            room = self._rooms[name] = _Room(loop)
        return room

    def _look_later(self, name: str, room: _Room, seconds: float) -> None:
        if room.timer is not None:
            room.timer.cancel()
        room.timer = room.loop.call_later(seconds, self._look, name, room)

    def _look(self, name: str, room: _Room) -> None:
        """Leave a queue where nobody waits, and a while later the room itself."""
        room.timer = None
        if room.waiting or self._rooms.get(name) is not room:
            return
        idle = monotonic() - room.left_at
        if idle >= _LEAVES and room.in_line:
            room.enlisted_until, room.in_line = 0.0, False
            task = room.loop.create_task(self._leave(name))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        if idle < _FORGETS:
            self._look_later(name, room, (_LEAVES if idle < _LEAVES else _FORGETS) - idle)
            return
        del self._rooms[name]
        self._unlisten(name)

    async def _leave(self, name: str) -> None:
        with suppress(Exception):  # its place is of no use to anybody, and costs one grace
            await self._delist(name)
