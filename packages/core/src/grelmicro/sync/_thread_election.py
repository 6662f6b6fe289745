"""Leader election for worker threads."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from grelmicro._threads import loop_of, run_on
from grelmicro.errors import LockLostError, LockNotOwnedError
from grelmicro.sync._checks import check_timeout

if TYPE_CHECKING:
    from grelmicro.sync._election import LeaderElection

__all__ = ["ThreadElection"]

T = TypeVar("T")


class ThreadElection:
    """A `LeaderElection` for callers in worker threads; it runs on the backend's event loop.

    `with election.from_thread:` waits until this process leads, and stops when the block is left.
    `is_leader()` and `fencing_token` of the election itself may be read in any thread.
    """

    def __init__(self, election: "LeaderElection") -> None:
        self._election = election

    def __enter__(self) -> Self:
        """Run the election, and wait until this process leads.

        Raises:
            BackendNotOpenError: The backend was never opened, or is closed.
            RuntimeError: This is the thread of an event loop, which would stop.
        """
        self._run(self._election.__aenter__())
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop, and hand the leadership over. Raises what `__enter__` raises."""
        self._run(self._election.__aexit__(None, None, None))

    def wait_for_leader(self, timeout: float | None = None) -> None:
        """Wait until this process leads.

        Raises:
            TimeoutError: It did not within `timeout` seconds.
            Exception: What `__enter__` raises.
        """
        seconds = check_timeout(timeout)
        self._run(_within(seconds, self._election.wait_for_leader))

    def wait_lose_leader(self, timeout: float | None = None) -> None:
        """Wait until this process does not lead.

        Raises:
            TimeoutError: It did within `timeout` seconds.
            Exception: What `__enter__` raises.
        """
        seconds = check_timeout(timeout)
        self._run(_within(seconds, self._election.wait_lose_leader))

    @contextmanager
    def guard(self) -> Generator[int, None, None]:
        """Run a block as leader only. Nothing can stop a thread: it asks `is_leader()` by itself.

        Yields:
            The fencing token.

        Raises:
            LockNotOwnedError: This process does not lead.
            LockLostError: It was the leader, and is not any more at the end of the block.
        """
        token = self._election.fencing_token
        if not token:
            raise LockNotOwnedError(f"this process does not lead {self._election.name!r}")
        yield token
        if self._election.fencing_token != token:
            raise LockLostError(f"this process does not lead {self._election.name!r} any more")

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        try:
            loop = loop_of(self._election._leasing.find())
        except BaseException:
            coroutine.close()
            raise
        return run_on(loop, coroutine)


async def _within(seconds: float | None, wait: Callable[[], Awaitable[None]]) -> None:
    async with asyncio.timeout(seconds):
        await wait()
