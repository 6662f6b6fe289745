"""Messages of channels, over one connection of its own that is made for the first listener."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import asyncpg

from grelmicro.providers._postgres_door import PAUSES

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]

__all__ = ["Heard", "Listener"]

_log = logging.getLogger("grelmicro.postgres")

Heard = Callable[[bytes | None], None]
"""What is called with a message; with None when some may have been missed."""

_CHECK = 15.0
"""Seconds of silence after which the connection is asked for a sign of life."""

_FAILURES = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError)


class Listener:
    """Listens to channels; the connection lasts from the first listener until `close`.

    LISTEN belongs to a session: this connection is no pooled one, and a pooler in transaction mode
    between here and the server would swallow the messages.

    Args:
        connect: Makes the connection.
        timeout: Seconds that a statement on it may take.
    """

    def __init__(self, connect: Callable[[], Awaitable["Connection"]], *, timeout: float) -> None:
        self._connect = connect
        self._timeout = timeout
        self._heard: dict[str, list[Heard]] = {}
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def add(self, channel: str, heard: Heard) -> None:
        """Call `heard` with each message of a channel from now on, and once when it listens."""
        callbacks = self._heard.setdefault(channel, [])
        if heard not in callbacks:
            callbacks.append(heard)
            self._changed.set()
        if self._task is None:
            self._task = asyncio.create_task(self._listen())

    def remove(self, channel: str, heard: Heard) -> None:
        """Call it no more."""
        callbacks = self._heard.get(channel, [])
        if heard in callbacks:
            callbacks.remove(heard)
        if not callbacks and self._heard.pop(channel, None) is not None:
            self._changed.set()

    async def close(self) -> None:
        """Listen no more."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def _listen(self) -> None:
        failures = 0
        while True:
            try:
                connection = await self._connect()
                failures = 0
                await self._follow(connection)
            except _FAILURES as error:
                if not failures:
                    _log.warning("no messages are heard (%s); trying again", type(error).__name__)
                pause = PAUSES[min(failures, len(PAUSES) - 1)]
                failures += 1
                await asyncio.sleep(random.uniform(pause / 2, pause))  # noqa: S311  # no secret

    async def _follow(self, connection: "Connection") -> None:
        """Listen to what is wanted until the connection is lost."""
        connection.add_termination_listener(lambda *_: self._changed.set())
        have: set[str] = set()
        try:
            while not connection.is_closed():
                self._changed.clear()
                await self._listen_to(connection, have)
                await self._a_while(connection)
            raise ConnectionResetError("the server ended it")
        finally:
            connection.terminate()

    async def _listen_to(self, connection: "Connection", have: set[str]) -> None:
        for channel in self._heard.keys() - have:
            async with asyncio.timeout(self._timeout):
                await connection.add_listener(channel, self._hear)
            have.add(channel)
            self._tell(channel, None)
        for channel in have - self._heard.keys():
            async with asyncio.timeout(self._timeout):
                await connection.remove_listener(channel, self._hear)
            have.discard(channel)

    async def _a_while(self, connection: "Connection") -> None:
        """Wait until there is something to do; after a silence, see whether it is still there."""
        try:
            async with asyncio.timeout(_CHECK):
                await self._changed.wait()
        except TimeoutError:
            await connection.execute("SELECT 1", timeout=self._timeout)

    def _hear(self, _connection: Any, _pid: int, channel: str, payload: object) -> None:
        self._tell(channel, str(payload).encode())

    def _tell(self, channel: str, payload: bytes | None) -> None:
        for heard in [*self._heard.get(channel, ())]:
            heard(payload)
