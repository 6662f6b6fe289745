"""Messages of channels, over one connection of redis-py that is made for the first listener."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from time import monotonic
from typing import Any

from redis.asyncio.client import PubSub
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from grelmicro.providers._redis_link import PAUSES, jittered

__all__ = ["Heard", "Listener"]

_log = logging.getLogger("grelmicro.redis")

_SHORT_LIFE = 1.0
"""Seconds; the loss of a subscription that lasted longer does not count as a failure more."""

Heard = Callable[[bytes | None], None]
"""What is called with a message; with None when some may have been missed."""


class Listener:
    """Listens to channels as long as somebody wants to know.

    Args:
        make: Makes a subscription without channels; no I/O.
    """

    def __init__(self, make: Callable[[], PubSub]) -> None:
        self._make = make
        self._heard: dict[bytes, list[Heard]] = {}
        self._pubsub: PubSub | None = None
        self._task: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._closed = False

    def add(self, channel: str, heard: Heard) -> None:
        """Call `heard` with each message of a channel from now on, and once when it listens."""
        callbacks = self._heard.setdefault(channel.encode(), [])
        if heard not in callbacks:
            callbacks.append(heard)
            self._changed.set()
        if self._task is None:
            self._task = asyncio.create_task(self._listen())

    def remove(self, channel: str, heard: Heard) -> None:
        """Call it no more."""
        callbacks = self._heard.get(channel.encode(), [])
        if heard in callbacks:
            callbacks.remove(heard)
        if not callbacks:
            self._heard.pop(channel.encode(), None)
            self._changed.set()

    async def close(self) -> None:
        """Listen no more."""
        task, self._task = self._task, None
        self._closed = True  # redis-py may swallow a cancellation that meets a reply
        self._changed.set()
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def _listen(self) -> None:
        failures = 0
        while not self._closed:
            pubsub, begun = self._make(), monotonic()
            try:
                async with _not_repeated(pubsub):
                    await self._follow(pubsub)
            except (RedisError, OSError) as error:
                _log.warning("a subscription was lost (%s); trying again", type(error).__name__)
                failures = failures if monotonic() - begun < _SHORT_LIFE else 0
                failures = min(failures + 1, len(PAUSES))
            finally:
                await _end(pubsub)
            if failures and not self._closed:
                await asyncio.sleep(jittered(PAUSES[failures - 1]))

    async def _follow(self, pubsub: PubSub) -> None:
        """Subscribe to what is wanted, and hear."""
        reading: asyncio.Task[None] | None = None
        over = asyncio.Event()
        try:
            while not self._closed:
                self._changed.clear()
                await self._subscribe(pubsub)
                if reading is None and pubsub.subscribed:
                    reading = asyncio.create_task(self._read(pubsub, over))
                changed = asyncio.ensure_future(self._changed.wait())
                waited = {changed} if reading is None else {changed, reading}
                try:
                    await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    changed.cancel()
                if reading is not None and reading.done():
                    reading.result()
                    reading = None
        finally:
            over.set()
            if reading is not None:
                reading.cancel()
                await asyncio.wait([reading])

    async def _subscribe(self, pubsub: PubSub) -> None:
        wanted, have = {*self._heard}, {*pubsub.channels}
        if new := wanted - have:
            await pubsub.subscribe(*new)
        if old := have - wanted:
            await pubsub.unsubscribe(*old)

    async def _read(self, pubsub: PubSub, over: asyncio.Event) -> None:
        while pubsub.subscribed and not over.is_set():
            message: dict[str, Any] | None = await pubsub.get_message(timeout=None)
            if message is not None and message["type"] in ("message", "subscribe"):
                data = message["data"] if message["type"] == "message" else None
                for heard in [*self._heard.get(message["channel"], ())]:
                    heard(data)


@asynccontextmanager
async def _not_repeated(pubsub: PubSub) -> AsyncGenerator[None]:
    """Have a lost connection told at once: who reads and who subscribes would both connect again.

    The connection is the client's, which gets it back as it was.
    """
    await pubsub.connect()  # type: ignore[no-untyped-call]  # redis-py's own
    connection: Any = pubsub.connection
    before, connection.retry = connection.retry, Retry(NoBackoff(), 0, supported_errors=())
    try:
        yield
    finally:
        connection.retry = before


async def _end(pubsub: PubSub) -> None:
    with suppress(RedisError, OSError):
        await pubsub.aclose()  # type: ignore[no-untyped-call]  # redis-py's own
