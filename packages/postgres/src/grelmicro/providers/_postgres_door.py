"""What every statement of an adapter goes through: deadlines, lost connections, cancellation."""

import asyncio
import contextlib
import functools
import random
from collections.abc import Awaitable, Callable
from threading import get_ident
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import asyncpg

from grelmicro._process import current
from grelmicro.errors import OutOfContextError

__all__ = ["ClosedDoor", "Door", "OpenDoor", "NEVER", "OutcomeUnknownError", "PooledConnection"]

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]
    Pool = asyncpg.Pool[asyncpg.Record]
    Proxy = asyncpg.pool.PoolConnectionProxy[asyncpg.Record]
else:
    Connection = asyncpg.Connection

T = TypeVar("T")

Work = Callable[["Proxy"], Awaitable[T]]
"""One statement, or several that the server takes as one transaction, on a connection."""

PAUSES = (0.02, 0.1, 0.4)
"""Seconds to wait at most before each further try."""

NEVER = 86_400.0
"""Seconds, more than any timeout: the driver's own would ask the server to cancel a statement."""

_CLEANUP = 1.0
"""Seconds at most that a connection of a foreign pool may take to be reset."""

_UNREACHABLE = (OSError, asyncpg.PostgresConnectionError, asyncpg.CannotConnectNowError)

_LOST = (
    OSError,
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
)

_UNDONE = (asyncpg.SerializationError, asyncpg.DeadlockDetectedError)
"""What the server rolled back for the sake of others; it may be tried again, whatever it was."""


class OutcomeUnknownError(ConnectionError):
    """The connection was lost between a statement and its result: it may have been done, or not."""


class PooledConnection(Connection):
    """A connection that is reset after somebody used it, and not after statements of our own.

    These leave nothing behind in the session, and the reset is a round trip of its own.
    """

    is_untouched = False

    def leave_untouched(self) -> None:
        """Say that nothing of the session was changed since it was last clean."""
        self.is_untouched = True

    async def reset(self, *, timeout: float | None = None) -> None:
        """Reset the session before somebody else has it, if there is anything to reset."""
        untouched, self.is_untouched = self.is_untouched, False
        if not untouched:
            await super().reset(timeout=timeout)


class Door:
    """What a provider sends statements through."""

    async def run(
        self,
        work: Work[T],
        *,
        repeatable: bool = False,
        deadline: float | None = None,
        shield: bool = True,
    ) -> T:
        """Do something on a connection.

        Args:
            work: What to do.
            repeatable: Whether it may be done again when its fate is unknown.
            deadline: When it has to be over, by the loop's clock; by default the timeout from now.
            shield: Whether a caller that is cancelled leaves it to its end; False for a task that
                nobody cancels.

        Raises:
            OutOfContextError: The provider is not open, or not on this event loop.
            TimeoutError: It was not over in time.
            OutcomeUnknownError: The connection was lost; it may have been done.
            OSError: The server cannot be reached.
            asyncpg.PostgresError: The server refused.
        """
        raise NotImplementedError

    async def close(self) -> None:
        """See what is in flight end."""


class ClosedDoor(Door):
    """No way through."""

    def __init__(self, provider: object) -> None:
        self._provider = provider

    def refuse(self) -> NoReturn:
        """Raise OutOfContextError."""
        raise OutOfContextError(
            f"{self._provider!r} is not open: "
            "list it in uses=[...] before what borrows it, or enter it"
        )

    async def run(
        self,
        work: Work[T],
        *,
        repeatable: bool = False,
        deadline: float | None = None,
        shield: bool = True,
    ) -> T:
        """Refuse."""
        self.refuse()


class OpenDoor(Door):
    """The way through a pool.

    A caller that is cancelled leaves at once; its statement is seen to its end all the same, so
    that no connection is left out of step. One whose time is over ends with its connection.

    Args:
        provider: What errors name.
        pool: Where connections come from.
        timeout: Seconds within which everything ends.
    """

    def __init__(self, provider: object, pool: "Pool", timeout: float) -> None:
        self.loop = asyncio.get_running_loop()
        self._thread = get_ident()
        self._process = current.id
        self._provider = provider
        self._pool = pool
        self._timeout = timeout
        self._tasks: set[asyncio.Task[Any]] = set()

    def check(self) -> None:
        """Refuse another loop, thread or process. Asking for the running loop would be slower."""
        if get_ident() != self._thread or current.id != self._process or not self.loop.is_running():
            raise OutOfContextError(
                f"{self._provider!r} was opened on another event loop, or before a fork: "
                "open a provider in each"
            )

    async def run(
        self,
        work: Work[T],
        *,
        repeatable: bool = False,
        deadline: float | None = None,
        shield: bool = True,
    ) -> T:
        """Do something on a connection, again if it may be; see `Door.run`."""
        self.check()
        deadline = self.loop.time() + self._timeout if deadline is None else deadline
        if not shield:
            return await self._noted(self._tried(work, repeatable, deadline, None))
        answer: asyncio.Future[T] = self.loop.create_future()
        task = self.loop.create_task(self._noted(self._tried(work, repeatable, deadline, answer)))
        task.add_done_callback(functools.partial(_tell, answer))
        return await answer

    async def _noted(self, tried: Awaitable[T]) -> T:
        """Let `close` wait for the task that this is done in."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            return await tried
        finally:
            self._tasks.discard(task)

    async def _tried(
        self,
        work: Work[T],
        repeatable: bool,
        deadline: float,
        answer: "asyncio.Future[T] | None",
    ) -> T:
        for longest in PAUSES:
            try:
                return await self._once(work, repeatable, deadline, answer)
            except (_AgainError, *_UNDONE) as error:
                pause = random.uniform(longest / 2, longest)  # noqa: S311  # no secret
                if self.loop.time() + pause >= deadline:
                    raise (error.reason if isinstance(error, _AgainError) else error) from None
                await asyncio.sleep(pause)
        try:
            return await self._once(work, repeatable, deadline, answer)
        except _AgainError as error:
            raise error.reason from None

    async def _once(
        self,
        work: Work[T],
        repeatable: bool,
        deadline: float,
        answer: "asyncio.Future[T] | None",
    ) -> T:
        """Do it; who waits for the answer has it before the connection is back in the pool."""
        connection = await self._connection(deadline)
        alarm = _Alarm(connection)
        timer = self.loop.call_at(deadline, alarm.ring)
        try:
            result = await work(connection)
            if answer is not None and not answer.done():
                answer.set_result(result)
            return result
        except Exception as error:
            if alarm.rang:
                raise self._late() from error
            if not isinstance(error, _LOST) and not _is_closed(connection):
                raise
            if repeatable:
                raise _AgainError(error) from error
            raise OutcomeUnknownError(
                f"{self._provider!r}: the connection was lost before the result"
            ) from error
        finally:
            timer.cancel()
            await self._give_back(connection)

    async def _connection(self, deadline: float) -> "Proxy":
        try:
            async with asyncio.timeout_at(deadline):
                return await self._pool.acquire()
        except TimeoutError as error:
            raise self._late() from error
        except _UNREACHABLE as error:
            raise _AgainError(error) from error

    async def _give_back(self, connection: "Proxy") -> None:
        """Return a connection to the pool; a closed one is no longer there to be returned."""
        if _is_closed(connection):
            return
        if not connection.is_in_transaction():
            _leave_untouched(connection)
        with contextlib.suppress(*_LOST, asyncpg.InterfaceError):  # the pool has ended it then
            await self._pool.release(connection, timeout=_CLEANUP)

    def _late(self) -> TimeoutError:
        return TimeoutError(f"{self._provider!r} did not answer in time")

    async def close(self) -> None:
        """Wait for what is in flight, for cancelled callers too; everything has its deadline."""
        if self._tasks:
            await asyncio.wait(self._tasks)


class _AgainError(Exception):
    """It may be tried again.

    Args:
        reason: Why it has to be.
    """

    def __init__(self, reason: Exception) -> None:
        super().__init__(reason)
        self.reason = reason


class _Alarm:
    """Ends a connection whose statement is late; the driver would ask the server to cancel it."""

    def __init__(self, connection: "Proxy") -> None:
        self._connection = connection
        self.rang = False

    def ring(self) -> None:
        """Do it."""
        self.rang = True
        self._connection.terminate()


def _tell(answer: "asyncio.Future[T]", task: "asyncio.Task[T]") -> None:
    """Tell how it ended, if somebody still waits; for nobody else is it news."""
    if task.cancelled():
        answer.cancel()
    elif (error := task.exception()) is not None and not answer.done():
        answer.set_exception(error)


def _is_closed(connection: "Proxy") -> bool:
    try:
        return bool(connection.is_closed())
    except asyncpg.InterfaceError:  # and so the pool has taken it back
        return True


def _leave_untouched(connection: "Proxy") -> None:
    if (leave := getattr(connection, "leave_untouched", None)) is not None:
        leave()
