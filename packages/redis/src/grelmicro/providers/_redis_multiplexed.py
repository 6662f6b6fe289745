"""Sending commands over our own connections, which all callers share."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from redis.exceptions import AskError, AuthenticationError, MovedError, RedisError
from redis.exceptions import ConnectionError as RedisConnectionError

from grelmicro.providers._redis_commands import Args, is_odd, misfit, pack, packed
from grelmicro.providers._redis_connection import NotSentError, OutcomeUnknownError
from grelmicro.providers._redis_door import OpenDoor
from grelmicro.providers._redis_link import PAUSES, Link, jittered
from grelmicro.providers._redis_routes import REFUSALS, Route

__all__ = ["MultiplexedDoor"]

_REDIRECTS = 8
"""Times that a command follows MOVED and ASK."""

_FAILURES = (RedisError, TimeoutError)

_ASKING = packed(("ASKING",))


@dataclass(slots=True)
class _Attempt:
    """A command on the long way: what it is, where it was sent last, and how often it was tried."""

    args: Args
    command: bytes
    repeatable: bool
    deadline: float
    link: Link | None
    node: Link | None = None
    target: Link | None = None
    asking: bool = False
    redirects: int = 0
    pauses: list[float] = field(default_factory=lambda: list(PAUSES))

    def may_repeat(self, failure: Exception) -> bool:
        """Whether the command was certainly not done, or may be done twice."""
        if isinstance(failure, OutcomeUnknownError | TimeoutError):
            return self.repeatable
        if isinstance(failure, AuthenticationError):
            return False
        return isinstance(failure, (*REFUSALS, RedisConnectionError))

    def pause(self, failure: Exception) -> float:
        """Seconds to wait before the next try; raises the failure after the last of them."""
        if not self.pauses:
            raise failure
        return jittered(self.pauses.pop(0))


class MultiplexedDoor(OpenDoor):
    """Our own connections, which all callers share."""

    def __init__(self, provider: object, timeout: float, route: Route) -> None:
        super().__init__(provider, timeout)
        self._route = route

    async def execute(self, args: Args, repeatable: bool, node: Link | None = None) -> Any:
        """Send a command; the way is short when a connection is ready and nothing fails."""
        if not args or is_odd(args[0]) or self._is_elsewhere():
            self.check(args)
        try:
            command = pack(args)
        except TypeError:
            raise misfit(args) from None
        link = node or self._route.link(args)
        if link is None or (connection := link.ready) is None:
            deadline, failure = self.loop.time() + self._timeout, None
        else:
            reply = connection.send(command)
            deadline = connection.deadline
            try:
                return await reply
            except _FAILURES as error:
                failure = error
        attempt = _Attempt(args, command, repeatable, deadline, link, node)
        return await self._persist(attempt, failure)

    async def execute_many(self, commands: Sequence[Args], repeatable: bool) -> list[Any]:
        """Send commands in one write, as far as there is room."""
        for args in commands:
            self.check(args)
        deadline = self.loop.time() + self._timeout
        attempts = [
            _Attempt(args, packed(args), repeatable, deadline, self._route.link(args))
            for args in commands
        ]
        sent = map(self._begin, attempts)
        replies: list[Any] = await asyncio.gather(*sent, return_exceptions=True)
        failed = [n for n, reply in enumerate(replies) if isinstance(reply, _FAILURES)]
        again = (self._settle(attempts[n], replies[n]) for n in failed)
        for n, reply in zip(failed, await asyncio.gather(*again), strict=True):
            replies[n] = reply
        return replies

    def _begin(self, attempt: _Attempt) -> asyncio.Future[Any]:
        if attempt.link is not None and (connection := attempt.link.ready) is not None:
            return connection.send(attempt.command)
        unsent: asyncio.Future[Any] = self.loop.create_future()
        unsent.set_exception(NotSentError("no connection was ready"))
        return unsent

    async def _settle(self, attempt: _Attempt, failure: Exception) -> Any:
        try:
            return await self._persist(attempt, failure)
        except _FAILURES as error:
            return error

    async def _persist(self, attempt: _Attempt, failure: Exception | None) -> Any:
        """Try until the command is done, may not be repeated, or its time is over."""
        try:
            async with asyncio.timeout_at(attempt.deadline):
                while True:
                    if failure is not None:
                        await self._reconsider(attempt, failure)
                    try:
                        return await self._try(attempt)
                    except _FAILURES as error:
                        failure = error
        except TimeoutError:
            raise self.late() from None

    async def _reconsider(self, attempt: _Attempt, failure: Exception) -> None:
        """Do what a failure calls for before the next try; raise it if there is to be none."""
        attempt.target, attempt.asking = attempt.node, False
        if self.loop.time() >= attempt.deadline:
            raise TimeoutError from failure
        if isinstance(failure, AskError) and attempt.link and attempt.redirects < _REDIRECTS:
            attempt.redirects += 1
            attempt.target = self._route.redirected(failure, attempt.link)
            attempt.asking = not isinstance(failure, MovedError)
        elif not attempt.may_repeat(failure):
            raise failure
        elif isinstance(failure, NotSentError | OutcomeUnknownError):
            attempt.pause(failure)  # the link itself waits before it connects again
        elif isinstance(failure, RedisError):
            if attempt.link is not None:
                self._route.distrust(failure, attempt.link)
            await asyncio.sleep(attempt.pause(failure))

    async def _try(self, attempt: _Attempt) -> Any:
        attempt.link = attempt.target or await self._route.find(attempt.args)
        connection = await attempt.link.connection()
        if attempt.asking:
            connection.send(_ASKING).add_done_callback(_seen)
        return await connection.send(attempt.command)

    async def nodes(self) -> Sequence[Link]:
        """One link for each part of the key space."""
        try:
            async with asyncio.timeout(self._timeout):
                return await self._route.links()
        except TimeoutError:
            raise self.late() from None

    async def close(self) -> None:
        """See what is in flight end, within the timeout; then end all connections."""
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._timeout):
                    await self._route.drain()
        finally:
            await self._route.close()


def _seen(reply: asyncio.Future[Any]) -> None:
    if not reply.cancelled():
        reply.exception()  # the command after it will fail as well
