"""What can be asked of a Redis provider, whatever carries it."""

from collections.abc import AsyncIterator, Coroutine, Iterable, Sequence
from typing import Any

from redis.exceptions import NoScriptError

from grelmicro.providers._redis_commands import Argument, K, by_slot, literal
from grelmicro.providers._redis_door import Door
from grelmicro.providers._redis_scripts import RedisScript

__all__ = ["Commands"]


class Commands:
    """The commands of a provider; all of them go through its one door."""

    _door: Door

    @property
    def is_cluster(self) -> bool:
        """Whether keys are spread over the servers of a cluster."""
        raise NotImplementedError

    def execute(self, *args: Argument, repeatable: bool = False) -> Coroutine[Any, Any, Any]:
        """Send one command, and return its reply undecoded: the door of every adapter.

        A caller that is cancelled leaves at once. Its command may be done all the same.

        Args:
            args: The command and its arguments.
            repeatable: Whether the command may be sent again when its fate is unknown: reads may,
                writes may not.

        Raises:
            OutOfContextError: The provider is not open, or not on this event loop.
            ValueError: The command would block or change a connection that others share; `client`
                gives it one of its own.
            TimeoutError: There was no answer within the provider's `timeout`.
            OutcomeUnknownError: The connection was lost before the reply; the command may have been
                done.
            redis.exceptions.RedisError: There is no connection, or the server refused.
        """
        return self._door.execute(args, repeatable)

    async def execute_many(
        self, commands: Iterable[Sequence[Argument]], *, repeatable: bool = False
    ) -> list[Any]:
        """Send commands together, and return their replies in order: one round trip.

        They are no transaction: each is done, or fails, by itself.

        Args:
            commands: Each with its arguments.
            repeatable: As in `execute`, for each of them.

        Raises:
            Exception: The first failure, as in `execute`, after all commands have come to an end.
        """
        replies = await self._door.execute_many([*map(tuple, commands)], repeatable)
        for reply in replies:
            if isinstance(reply, BaseException):
                raise reply
        return replies

    async def run(
        self,
        script: RedisScript,
        *,
        keys: Sequence[Argument] = (),
        args: Sequence[Argument] = (),
        repeatable: bool = False,
    ) -> Any:
        """Run a script in one round trip; in two when the server does not have it yet.

        Args:
            script: The script.
            keys: All keys that it touches; on a cluster they have to be in one slot.
            args: Its further arguments.
            repeatable: As in `execute`.

        Raises:
            Exception: As in `execute`.
        """
        rest = (len(keys), *keys, *args)
        try:
            return await self.execute("EVALSHA", script.sha, *rest, repeatable=repeatable)
        except NoScriptError:
            return await self.execute("EVAL", script.source, *rest, repeatable=repeatable)

    async def scan(self, prefix: str, *, count: int = 1000) -> AsyncIterator[list[bytes]]:
        """The names of all keys that begin with `prefix`, taken literally, some at a time.

        A name may come twice, and keys that are made or removed meanwhile may be missed.

        Args:
            prefix: What the names begin with.
            count: How many keys the server looks at in one step.

        Raises:
            Exception: As in `execute`.
        """
        pattern = literal(prefix) + "*"
        for node in await self._door.nodes():
            cursor: Argument = "0"
            while True:
                command = ("SCAN", cursor, "MATCH", pattern, "COUNT", count)
                cursor, names = await self._door.execute(command, True, node)
                yield names
                if int(cursor) == 0:
                    break

    def together(self, keys: Sequence[K]) -> list[Sequence[K]]:
        """Keys in groups that one command may name: one group, or one a slot of a cluster."""
        return by_slot(keys) if self.is_cluster else [keys]
