"""`LeaderElection`: one leader in the whole fleet, as long as it can prove it."""

import asyncio
import logging
import math
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from time import monotonic
from types import TracebackType
from typing import Any, Self

from grelmicro._sources import backend_source
from grelmicro.errors import LockLostError, LockNotOwnedError, OutOfContextError, SyncError
from grelmicro.errors import SyncSettingsValidationError as SettingsError
from grelmicro.sync._checks import check_name, check_seconds
from grelmicro.sync._contract import SyncBackend
from grelmicro.sync._holds import Hold
from grelmicro.sync._leasing import Leasing
from grelmicro.sync._local import local_of
from grelmicro.sync._thread_election import ThreadElection

__all__ = ["LeaderElection"]

_log = logging.getLogger("grelmicro.sync")


class LeaderElection:
    """Elects one of all processes that run it under one name, for as long as that one renews.

    A leader that cannot renew within `renew_deadline` stops being one by itself, before its lease
    ends after `lease_duration` and another can be elected: two never lead at a time, as far as
    their clocks run at one speed. `fencing_token` rises with every change.

    Run it as a task, `asyncio.create_task(election())`, or hold it: `async with election:` waits
    until this process leads.

    Args:
        name: What is led: 1 to 1,024 printable characters.
        lease_duration: Seconds after which a leader that died has a successor.
        renew_deadline: Seconds after the last renewal when a leader steps down; below
            `lease_duration`.
        retry_interval: Seconds between two tries to be elected, or to renew; below
            `renew_deadline`.
        backend_timeout: Seconds that one request may take.
        error_interval: Seconds between two log messages about a backend that fails.
        backend: As for `Lock`.
        worker: As for `Lock`.

    Raises:
        SyncSettingsValidationError: A setting cannot be used, or they do not go together.
    """

    def __init__(
        self,
        name: str,
        *,
        lease_duration: float = 15,
        renew_deadline: float = 10,
        retry_interval: float = 2,
        backend_timeout: float = 5,
        error_interval: float = 30,
        backend: "SyncBackend | Any | str | None" = None,
        worker: str | None = None,
    ) -> None:
        self._leasing = Leasing(
            backend_source("sync", backend),
            f"leader:{check_name(name)}",
            name=name,
            duration=check_seconds(lease_duration, "lease_duration"),
            worker=None if worker is None else check_name(worker, "worker"),
        )
        self._renew_deadline = check_seconds(renew_deadline, "renew_deadline")
        self._retry_interval = check_seconds(retry_interval, "retry_interval")
        self._backend_timeout = check_seconds(backend_timeout, "backend_timeout")
        self._error_interval = check_seconds(error_interval, "error_interval", 0.0)
        if not retry_interval < renew_deadline < lease_duration:
            raise SettingsError(
                "renew_deadline: it has to be between retry_interval and lease_duration"
            )
        self._hold: Hold | None = None
        self._until = -math.inf
        self._running = 0
        self._said_at = -math.inf
        self._changed: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def name(self) -> str:
        """What is led."""
        return self._leasing.name

    @property
    def fencing_token(self) -> int:
        """The number of this leadership; 0 when this process does not lead."""
        return self._hold.fencing_token if self._hold is not None and self.is_leader() else 0

    @property
    def from_thread(self) -> ThreadElection:
        """The same election for worker threads."""
        return ThreadElection(self)

    def is_running(self) -> bool:
        """Whether the election is run here."""
        return self._running > 0

    def is_leader(self) -> bool:
        """Whether this process leads now; False from `renew_deadline` after the last renewal on."""
        return self._hold is not None and monotonic() < self._until

    async def wait_for_leader(self) -> None:
        """Wait until this process leads."""
        while not self.is_leader():
            await self._change(math.inf)

    async def wait_lose_leader(self) -> None:
        """Wait until this process does not lead."""
        while self.is_leader():
            await self._change(self._until - monotonic())

    @asynccontextmanager
    async def guard(self) -> AsyncGenerator[int, None]:
        """Run a block as leader only: it is cancelled when the leadership is lost.

        Yields:
            The fencing token.

        Raises:
            LockNotOwnedError: This process does not lead.
            LockLostError: It was the leader, and is not any more.
        """
        if not self.is_leader():
            raise LockNotOwnedError(f"this process does not lead {self.name!r}")
        token = self.fencing_token
        task = asyncio.current_task()
        assert task is not None
        watch = asyncio.create_task(self._end(task, token))
        try:
            yield token
        except asyncio.CancelledError:
            if watch.done() and task.cancelling() == 1:
                raise self._leasing_lost() from None
            raise
        finally:
            if not watch.cancel():  # what has cancelled the block is over, whatever came of it
                task.uncancel()
        if self.fencing_token != token:
            raise self._leasing_lost()

    async def _end(self, task: "asyncio.Task[Any]", token: int) -> None:
        while self.fencing_token == token:
            await self._change(self._until - monotonic())
        task.cancel()

    def _leasing_lost(self) -> LockLostError:
        return LockLostError(f"this process does not lead {self.name!r} any more")

    async def __call__(self) -> None:
        """Take part until cancelled; then hand the leadership over at once.

        Raises:
            OutOfContextError: It runs already.
        """
        if self._running:
            raise OutOfContextError(f"{self!r} runs already")
        self._running += 1
        try:
            while True:
                await self._round()
        finally:
            self._running -= 1
            await self._step_down()

    async def __aenter__(self) -> Self:
        """Run the election, and wait until this process leads.

        Raises:
            OutOfContextError: It runs already.
        """
        if self._task is not None:
            raise OutOfContextError(f"{self!r} runs already")
        self._task = asyncio.create_task(self())
        waiting = asyncio.ensure_future(self.wait_for_leader())
        try:
            await asyncio.wait({self._task, waiting}, return_when=asyncio.FIRST_COMPLETED)
            if self._task.done():
                await self._task
        except BaseException:
            await self._stop()
            raise
        finally:
            waiting.cancel()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop, and hand the leadership over."""
        await self._stop()

    async def _stop(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def _round(self) -> None:
        """Try to be elected, or to renew, and rest."""
        try:
            async with asyncio.timeout(self._backend_timeout):
                await (self._renew(self._hold) if self._hold is not None else self._run_for_it())
        except LockLostError:
            _log.warning("the leadership of %r is lost", self.name)
            self._set(None, -math.inf)
        except (SyncError, TimeoutError, LookupError) as error:
            self._say(error)
        if self._hold is not None and not self.is_leader():
            _log.warning("the leadership of %r could not be renewed in time", self.name)
            await self._step_down()
        await asyncio.sleep(self._rest())

    def _rest(self) -> float:
        if self._hold is None:
            return self._retry_interval
        return max(0.0, min(self._retry_interval, self._until - monotonic()))

    async def _run_for_it(self) -> None:
        sent_at = monotonic()
        hold = await self._leasing.try_take()
        if hold is not None:
            self._set(hold, sent_at + self._renew_deadline)
            _log.info("this process leads %r now", self.name)

    async def _renew(self, hold: Hold) -> None:
        sent_at = monotonic()
        await self._leasing.extend(hold)
        if self.is_leader():
            self._set(hold, sent_at + self._renew_deadline)
        else:  # it came too late: whoever asked was told that this process leads no more
            await self._step_down()

    def _set(self, hold: Hold | None, until: float) -> None:
        changes = hold is not self._hold
        self._hold, self._until = hold, until
        if changes and self._changed is not None and not self._changed.done():
            self._changed.set_result(None)

    async def _change(self, timeout: float) -> None:
        """Wait until the leadership may have changed."""
        if self._changed is None or self._changed.done():
            self._changed = asyncio.get_running_loop().create_future()
        most = None if math.isinf(timeout) else max(timeout, 0.0)
        await asyncio.wait([self._changed], timeout=most)

    async def _step_down(self) -> None:
        """Lead no more, and let others know, if the backend can be reached."""
        hold = self._hold
        self._set(None, -math.inf)
        if hold is None:
            return
        try:
            async with asyncio.timeout(self._backend_timeout):
                await self._leasing.give_back(hold)
        except LockNotOwnedError as error:
            self._say(error)
        except BaseException as error:  # it may not have been done
            local_of(hold.backend).give_back(hold.backend, hold.key, hold.token, hold.duration)
            if not isinstance(error, SyncError | TimeoutError):
                raise
            self._say(error)

    def _say(self, error: BaseException) -> None:
        now = monotonic()
        if now - self._said_at >= self._error_interval:
            self._said_at = now
            _log.warning("the election of %r fails (%s); it goes on", self.name, error)

    def __repr__(self) -> str:
        return f"LeaderElection({self.name!r})"
