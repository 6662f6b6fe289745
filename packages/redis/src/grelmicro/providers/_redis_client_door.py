"""Sending commands through a client of redis-py, one at a time on each of its connections."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from redis.asyncio import Redis, RedisCluster
from redis.client import NEVER_DECODE
from redis.exceptions import AuthenticationError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from grelmicro.providers._redis_commands import Args, slot_of
from grelmicro.providers._redis_door import OpenDoor
from grelmicro.providers._redis_link import PAUSES, jittered

__all__ = ["ClientDoor"]

_USUAL_SIZE = 100


class ClientDoor(OpenDoor):
    """A client of redis-py.

    As many commands are under way as the client has connections; more wait for their turn, since
    most pools would refuse them.

    A caller that is cancelled leaves at once; its command is seen to its end all the same, so that
    no connection is left out of step.
    """

    def __init__(self, provider: object, timeout: float, client: Redis | RedisCluster) -> None:
        super().__init__(provider, timeout)
        self._client = client
        self._turns = asyncio.Semaphore(_size(client))
        self._tasks: set[asyncio.Task[Any]] = set()

    async def execute(self, args: Args, repeatable: bool, node: Any = None) -> Any:
        """Send a command, again if it may be."""
        self.check(args)

        async def send() -> Any:
            place = node or await self._place(args)
            return await place.execute_command(*args, **{NEVER_DECODE: True})

        return await self._seen_to_its_end(send, repeatable)

    async def _place(self, args: Args) -> Any:
        """What to ask: the client, or any primary of a cluster for a command without a key.

        Some of these the client of a cluster would send to all nodes, and make one of the replies.
        Before it knows the cluster, redis-py 8 takes every command for one without a key.
        """
        if not isinstance(self._client, RedisCluster):
            return self._client
        await self._client.initialize()
        if slot_of(args) is not None:
            return self._client
        return random.choice(self._client.get_primaries())  # noqa: S311  # no secret

    async def execute_many(self, commands: Sequence[Args], repeatable: bool) -> list[Any]:
        """Send commands in one pipeline."""
        for args in commands:
            self.check(args)

        async def send() -> list[Any]:
            pipeline = self._client.pipeline(transaction=False)
            for args in commands:
                pipeline.execute_command(*args, **{NEVER_DECODE: True})
            return await pipeline.execute(raise_on_error=False)

        return list(await self._seen_to_its_end(send, repeatable)) if commands else []

    async def _seen_to_its_end(self, send: Callable[[], Awaitable[Any]], repeatable: bool) -> Any:
        task = asyncio.create_task(self._bounded(send, repeatable))
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return await asyncio.shield(task)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # whoever still waits has it; for nobody else is it news

    async def _bounded(self, send: Callable[[], Awaitable[Any]], repeatable: bool) -> Any:
        try:
            async with asyncio.timeout(self._timeout), self._turns:
                return await _repeated(send) if repeatable else await send()
        except (TimeoutError, RedisTimeoutError) as error:
            raise self.late() from error

    async def nodes(self) -> Sequence[Any]:
        """Each primary of a cluster; otherwise the one server there is."""
        if isinstance(self._client, RedisCluster):
            await self._seen_to_its_end(self._client.initialize, True)
            return self._client.get_primaries()
        return [None]

    async def close(self) -> None:
        """Wait for commands in flight, those of cancelled callers too; each has its deadline."""
        if self._tasks:
            await asyncio.wait(self._tasks)


def _size(client: Redis | RedisCluster) -> int:
    """How many connections a client may have, to each node of a cluster."""
    if isinstance(client, RedisCluster):
        return int(client.connection_kwargs.get("max_connections", _USUAL_SIZE))
    return int(client.connection_pool.max_connections)


async def _repeated(send: Callable[[], Awaitable[Any]]) -> Any:
    for longest in PAUSES:
        try:
            return await send()
        except AuthenticationError:
            raise
        except (RedisConnectionError, RedisTimeoutError, OSError):
            await asyncio.sleep(jittered(longest))
    return await send()
