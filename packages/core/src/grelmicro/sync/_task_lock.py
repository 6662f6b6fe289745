"""`TaskLock`: one run of a job in the whole fleet, and not again too soon."""

import asyncio
from time import monotonic
from types import TracebackType
from typing import Any

from grelmicro._sources import backend_source
from grelmicro._threads import loop_of, run_on, task_here, thread_here
from grelmicro.errors import (
    GrelmicroError,
    LockNotOwnedError,
    LockReentrantError,
    SyncSettingsValidationError,
    WouldBlockError,
)
from grelmicro.sync._checks import check_name, check_seconds
from grelmicro.sync._contract import SyncBackend
from grelmicro.sync._holds import Hold, LockHandle
from grelmicro.sync._leasing import Leasing
from grelmicro.sync._local import local_of
from grelmicro.sync._threads import Blocks

__all__ = ["TaskLock", "ThreadTaskLock"]


class TaskLock:
    """A lock for a scheduled job that every replica starts, and one of them shall do.

    It never waits: whoever comes second gets WouldBlockError and leaves the job alone. It is kept
    for `min_lock_seconds`, so that replicas whose clocks differ do not do the job one after the
    other, and is given up after `max_lock_seconds`, so that a replica that died does not keep it.

    Args:
        name: The job: 1 to 1,024 printable characters.
        min_lock_seconds: Seconds that the lock is kept at least, from the start of the job.
        max_lock_seconds: Seconds after which it ends, whether the job is done or not.
        backend: As for `Lock`.
        worker: As for `Lock`.

    Raises:
        SyncSettingsValidationError: A setting cannot be used, or the least is above the most.
    """

    def __init__(
        self,
        name: str,
        *,
        min_lock_seconds: float = 1,
        max_lock_seconds: float = 60,
        backend: "SyncBackend | Any | str | None" = None,
        worker: str | None = None,
    ) -> None:
        self._least = check_seconds(min_lock_seconds, "min_lock_seconds", 0.0)
        most = check_seconds(max_lock_seconds, "max_lock_seconds")
        if self._least > most:
            raise SyncSettingsValidationError("min_lock_seconds: it is above max_lock_seconds")
        self._leasing = Leasing(
            backend_source("sync", backend),
            f"tasklock:{check_name(name)}",
            name=name,
            duration=most,
            worker=None if worker is None else check_name(worker, "worker"),
        )
        self._holds: dict[object, tuple[Hold, float]] = {}

    @property
    def name(self) -> str:
        """The job."""
        return self._leasing.name

    @property
    def backend(self) -> SyncBackend:
        """The backend that serves now."""
        found: SyncBackend = self._leasing.find()
        return found

    @property
    def from_thread(self) -> "ThreadTaskLock":
        """The same lock for worker threads."""
        return ThreadTaskLock(self)

    async def __aenter__(self) -> LockHandle:
        """Take the lock.

        Raises:
            WouldBlockError: Somebody has it, or had it a moment ago.
            LockReentrantError: This task has it.
            LockAcquireError: The backend failed.
        """
        return await self._enter(task_here())

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Give the lock back, or keep it for the rest of `min_lock_seconds`.

        Raises:
            LockNotOwnedError: It took longer than `max_lock_seconds`; a note on the job's own
                error, if any.
            LockReleaseError: The backend failed.
        """
        await self._leave(task_here(), exc)

    async def _enter(self, holder: object) -> Hold:
        held = self._holds.get(holder)
        if held is not None and not held[0].over:
            raise LockReentrantError(f"the lock {self.name!r} is held by this task or thread")
        started = monotonic()
        hold = await self._leasing.try_take()
        if hold is None:
            raise WouldBlockError(f"{self.name!r} is being done elsewhere, or was a moment ago")
        self._holds[holder] = (hold, started)
        return hold

    async def _leave(self, holder: object, exc: BaseException | None) -> None:
        hold, started = self._holds.pop(holder, (None, 0.0))
        if hold is None:
            raise self._leasing.not_owned()
        until = started + self._least
        try:
            await self._end(hold, until)
        except asyncio.CancelledError:
            self._end_later(hold, until)
            raise
        except GrelmicroError as error:
            if not isinstance(error, LockNotOwnedError):  # else it lasts for its most
                self._end_later(hold, until)
            if exc is None:
                raise
            exc.add_note(f"{type(error).__name__}: {error}")

    def _end_later(self, hold: Hold, until: float) -> None:
        local = local_of(hold.backend)
        local.owe(local.done_until(hold.deadline, lambda: self._end(hold, until)))

    async def _end(self, hold: Hold, until: float) -> None:
        if hold.over:
            await self._leasing.give_back(hold)  # it may be ours still, by the backend's clock
            raise self._leasing.lost(hold)
        if (rest := until - monotonic()) > 0:
            hold.duration = max(rest, 0.001)
            await self._leasing.extend(hold)
        else:
            await self._leasing.give_back(hold)

    def __repr__(self) -> str:
        return f"TaskLock({self.name!r})"


class ThreadTaskLock:
    """A `TaskLock` for callers in worker threads: `with task_lock.from_thread: ...`."""

    def __init__(self, lock: TaskLock) -> None:
        self._lock = lock
        self._blocks = Blocks()

    def __enter__(self) -> LockHandle:
        """Take the lock. Raises what `async with` raises, and BackendNotOpenError."""
        lock = self._lock
        hold = run_on(loop_of(lock.backend), lock._enter(thread_here()))
        self._blocks.begin()
        return hold

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Give the lock back or keep it. Raises what leaving an `async with` raises."""
        lock = self._lock
        run_on(loop_of(lock.backend), lock._leave(self._blocks.end(), exc))
