"""The way to one server: a connection as a rule, a few while something big is on the way."""

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable

from redis.exceptions import AuthenticationError, BusyLoadingError
from redis.exceptions import ConnectionError as RedisConnectionError

from grelmicro.providers._redis_connection import Connection

__all__ = ["PAUSES", "Link", "jittered"]

PAUSES = (0.02, 0.1, 0.4)
"""Seconds to wait at most before each further try."""

_SHORT_LIFE = 0.1
"""Seconds; a connection that lasted no longer counts as a failed try."""

_WAKES = 256
"""Waiting callers that are let in together."""

_CLOSED = "the provider was closed"

Dial = Callable[[Callable[[Connection], None]], Awaitable[Connection]]


def jittered(longest: float) -> float:
    """A pause between a half of `longest` and all of it."""
    return random.uniform(longest / 2, longest)  # noqa: S311  # no secret


class Link:
    """All connections to one server, made when they are needed.

    The first connection takes every command that it can, since commands that travel together are
    cheap. While it has no room or takes in something big, the next one is made or used.

    Args:
        dial: Makes a connection.
        most: How many there are at most.

    Attributes:
        ready: The connection to use now; None when there is none, or when others wait already.
    """

    def __init__(self, dial: Dial, *, most: int) -> None:
        self._dial = dial
        self._most = most
        self.ready: Connection | None = None
        self._loop = asyncio.get_running_loop()
        self._connections: list[Connection] = []
        self._leaving: set[Connection] = set()
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._dialling: asyncio.Task[None] | None = None
        self._closed = False
        self._failures = 0
        self._tried_at = 0.0

    def _refresh(self) -> None:
        while self._waiters and self._waiters[0].done():  # it was cancelled
            self._waiters.popleft()
        self.ready = None if self._waiters else self._first()

    def _first(self) -> Connection | None:
        for connection in self._connections:
            if connection.ready:
                return connection
        return None

    async def connection(self) -> Connection:
        """Wait for a connection that is ready.

        Raises:
            redis.exceptions.ConnectionError: None can be made, after a few tries.
            TimeoutError: The server did not answer.
        """
        found = self.ready
        turn = self._waiters.append
        while found is None:
            await self._wait(turn)
            turn = self._waiters.appendleft  # it was there before the others
            found = self._first()
        if self._waiters:
            self._wake(1)
        return found

    async def _wait(self, queue: Callable[[asyncio.Future[None]], None]) -> None:
        if self._closed:
            raise RedisConnectionError(_CLOSED)
        waiter: asyncio.Future[None] = self._loop.create_future()
        queue(waiter)
        self._refresh()
        self._dial_if_useful()
        try:
            await waiter
        except asyncio.CancelledError:
            # It may have been this one's turn; or it failed, which is nobody's news any more.
            woken = waiter.done() and not waiter.cancelled() and waiter.exception() is None
            self._wake(1 if woken else 0)
            raise

    def _wake(self, most: int) -> None:
        while self._waiters and most:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                most -= 1
        self._refresh()

    def _dial_if_useful(self) -> None:
        if self._dialling is None and len(self._connections) < self._most and not self._closed:
            self._dialling = asyncio.create_task(self._make())

    async def _make(self) -> None:
        try:
            connection = await self._tries()
        except Exception as error:  # for those who wait, whatever it is
            self._dialling = None
            self._give_up(error)
        else:
            self._dialling = None
            self._add(connection)

    async def _tries(self) -> Connection:
        while True:
            await self._rest()
            try:
                return await self._dial(self._on_change)
            except Exception as error:
                self._failures += 1
                if not _passing(error) or self._failures > len(PAUSES):
                    raise
            finally:
                self._tried_at = self._loop.time()

    async def _rest(self) -> None:
        """Wait before a try, longer after each failure, counted from the last one."""
        if self._failures:
            pause = jittered(PAUSES[min(self._failures, len(PAUSES)) - 1])
            await asyncio.sleep(max(0.0, self._tried_at + pause - self._loop.time()))

    def _add(self, connection: Connection) -> None:
        if not connection.usable:
            self._failures += 1
            if self._waiters:
                self._dial_if_useful()
            return
        self._connections.append(connection)
        self._wake(_WAKES)

    def _give_up(self, error: Exception) -> None:
        if self._connections:
            return  # those who wait do so for one that will be ready
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_exception(_again(error))
        self._waiters.clear()
        self._refresh()

    def _on_change(self, connection: Connection) -> None:
        if connection.ready:
            self._wake(_WAKES)
        self._refresh()
        if connection.usable:
            return
        if connection not in self._leaving:
            self._leaving.add(connection)
            connection.ended.add_done_callback(lambda _: self._leaving.discard(connection))
        if connection in self._connections:
            self._connections.remove(connection)
            self._refresh()
            lasted = self._loop.time() - self._tried_at
            self._failures = self._failures + 1 if lasted < _SHORT_LIFE else 0
            if self._waiters:
                self._dial_if_useful()

    def renew(self) -> None:
        """Take no more of these connections, whose server is not what it was."""
        for connection in list(self._connections):
            connection.retire()

    @property
    def at_rest(self) -> bool:
        """Whether it has no connection, and nobody wants one."""
        return not (self._waiters or self._connections or self._leaving or self._dialling)

    async def drain(self) -> None:
        """Wait until all that was asked has been answered, or has failed; then nothing is open."""
        while not self.at_rest:
            self._refresh()
            if not self._waiters:
                self.renew()
            connections = [*self._connections, *self._leaving]
            awaited = {waiter for waiter in self._waiters if not waiter.done()}
            awaited |= {connection.ended for connection in connections}
            awaited |= {self._dialling} if self._dialling else set()
            if awaited:
                await asyncio.wait(awaited, return_when=asyncio.FIRST_COMPLETED)

    async def close(self) -> None:
        """End all connections; what is in flight fails, each once. Nothing is left behind."""
        self._closed = True
        if self._dialling is not None:
            self._dialling.cancel()
            await asyncio.wait([self._dialling])
        connections = {*self._connections, *self._leaving}
        for connection in connections:
            connection.lose(_CLOSED)
        self._give_up(RedisConnectionError(_CLOSED))
        if connections:
            await asyncio.wait([connection.ended for connection in connections])


def _passing(error: Exception) -> bool:
    """Whether another try may have more luck."""
    if isinstance(error, AuthenticationError):
        return False
    return isinstance(error, RedisConnectionError | BusyLoadingError)


def _again(error: Exception) -> Exception:
    """An equal error, for one caller alone."""
    try:
        copy = type(error)(*error.args)
    except Exception:  # a class with a constructor of its own
        return error
    copy.__cause__ = error.__cause__
    return copy
