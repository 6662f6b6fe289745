"""`Lock`: one holder at a time, in the whole fleet."""

import asyncio
import math
from time import monotonic
from types import TracebackType
from typing import Any

from grelmicro._sources import backend_source
from grelmicro._threads import task_here
from grelmicro.errors import (
    GrelmicroError,
    LockLockedCheckError,
    LockNotOwnedError,
    LockOwnedCheckError,
    LockReentrantError,
    SyncSettingsValidationError,
    WouldBlockError,
)
from grelmicro.sync._checks import check_name, check_seconds, check_timeout
from grelmicro.sync._contract import SyncBackend
from grelmicro.sync._holds import Hold, Holder, LockHandle
from grelmicro.sync._leasing import Leasing
from grelmicro.sync._local import local_of
from grelmicro.sync._threads import ThreadLock

__all__ = ["Lock"]

_FEW = 8
"""Holders that a lock may know at a time before it looks which of them are gone."""


class Lock:
    """A lock by name, held by one task or thread of the whole fleet at a time.

    It is a lease: it ends when its holder dies. `async with` renews it as long as the block runs,
    and leaving the block raises LockLostError if it was lost all the same. After `acquire()` it
    ends after `lease_duration`, unless `extend()` is called.

    Whoever waits is served in the order of arrival within a process, and woken by the backend when
    it can do that.

    Args:
        name: What is locked: 1 to 1,024 printable characters. All who say the same name share it.
        backend: An adapter, a `Sync` component or the name of one; by default the open app's.
        worker: A name of this process for people who look at the backend; nothing depends on it.
        lease_duration: Seconds, from 0.001, after which a holder that died has lost the lock.
        retry_interval: Seconds after which a waiter looks by itself, if nobody woke it.
        renew: Whether `async with` renews the lease.
        max_hold: Seconds after which a renewed lease is renewed no more; by default never.

    Raises:
        SyncSettingsValidationError: A setting cannot be used.
        TypeError: `backend` is none of the above.
    """

    def __init__(
        self,
        name: str,
        *,
        backend: "SyncBackend | Any | str | None" = None,
        worker: str | None = None,
        lease_duration: float = 60,
        retry_interval: float = 0.1,
        renew: bool = True,
        max_hold: float | None = None,
    ) -> None:
        self._leasing = Leasing(
            backend_source("sync", backend),
            f"lock:{check_name(name)}",
            name=name,
            duration=check_seconds(lease_duration, "lease_duration"),
            retry_interval=check_seconds(retry_interval, "retry_interval"),
            worker=None if worker is None else check_name(worker, "worker"),
        )
        self._renew = renew
        self._max_hold = math.inf if max_hold is None else check_seconds(max_hold, "max_hold")
        if not renew and max_hold is not None:
            raise SyncSettingsValidationError("max_hold: it bounds renewal, and renew is False")
        self._holds: dict[Holder, Hold] = {}

    @property
    def name(self) -> str:
        """What is locked."""
        return self._leasing.name

    @property
    def backend(self) -> SyncBackend:
        """The backend that serves now."""
        found: SyncBackend = self._leasing.find()
        return found

    @property
    def from_thread(self) -> ThreadLock:
        """The same lock for worker threads, each a holder of its own."""
        return ThreadLock(self)

    async def __aenter__(self) -> LockHandle:
        """Wait for the lock, and hold it for the block.

        Raises:
            LockReentrantError: This task holds it already.
            LockAcquireError: The backend failed.
        """
        holder = task_here()
        return self._enter_nowait(holder) or await self._enter(holder)

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Give the lock back.

        Raises:
            LockLostError: It was lost during the block; a note on the block's own error, if any.
            LockReleaseError: The backend failed.
        """
        holder = task_here()
        if not self._leave_nowait(holder):
            await self._leave(holder, exc)

    async def acquire(self, timeout: float | None = None) -> LockHandle:
        """Wait for the lock, for `timeout` seconds at most; it ends after `lease_duration`.

        Raises:
            LockTimeoutError: It was not free in time.
            LockReentrantError: This task holds it already.
            LockAcquireError: The backend failed.
        """
        return await self._acquire(task_here(), check_timeout(timeout))

    async def acquire_nowait(self) -> LockHandle:
        """Take the lock if it is free.

        Raises:
            WouldBlockError: It is not.
            LockReentrantError: This task holds it already.
            LockAcquireError: The backend failed.
        """
        return await self._acquire_nowait(task_here())

    async def extend(self) -> None:
        """Let the lock last for `lease_duration` from now.

        Raises:
            LockNotOwnedError: This task does not hold it.
            LockLostError: Its lease had ended.
            LockAcquireError: The backend failed.
        """
        await self._extend(task_here())

    async def release(self) -> None:
        """Give the lock back.

        Raises:
            LockNotOwnedError: This task does not hold it.
            LockLostError: Its lease had ended.
            LockReleaseError: The backend failed; releasing may be tried again.
        """
        await self._release(task_here())

    async def locked(self) -> bool:
        """Whether anybody holds the lock.

        Raises:
            LockLockedCheckError: The backend failed.
        """
        try:
            return bool(await self.backend.locked(name=self._leasing.key))
        except GrelmicroError:
            raise
        except Exception as error:
            raise LockLockedCheckError(
                f"the lock {self.name!r} could not be looked at: {type(error).__name__}: {error}"
            ) from error

    async def owned(self) -> bool:
        """Whether this task holds the lock, as the backend says.

        Raises:
            LockOwnedCheckError: The backend failed.
        """
        return await self._owned(task_here())

    # For holders of every sort: tasks, and threads.

    def _enter_nowait(self, holder: Holder, block: Holder | None = None) -> Hold | None:
        """As `_enter`, if that is a matter of a moment; else None, and nothing was done."""
        if holder in self._holds:
            self._check_reentrance(holder)
        hold = self._leasing.take_nowait()
        return None if hold is None else self._keep(holder, hold, block)

    async def _enter(self, holder: Holder, block: Holder | None = None) -> Hold:
        """Hold it for a block, as long as its task lives, or the block itself if it is given."""
        if holder in self._holds:
            self._check_reentrance(holder)
        return self._keep(holder, await self._leasing.take(), block)

    def _keep(self, holder: Holder, hold: Hold, block: Holder | None) -> Hold:
        self._holds[holder] = hold
        if len(self._holds) > _FEW:
            self._forget_the_dead()
        if self._renew:
            hold.kept_by = block or holder
            if self._max_hold is not math.inf:
                hold.until = monotonic() + self._max_hold
            local_of(hold.backend).renew(hold)
        return hold

    def _leave_nowait(self, holder: Holder) -> bool:
        """As `_leave`, if that is a matter of a moment; False when that has still to be awaited."""
        hold = self._holds.get(holder)
        if hold is None or not self._leasing.give_back_nowait(hold):
            return False
        del self._holds[holder]
        return True

    def _note(self, holder: Holder, hold: Hold) -> Hold:
        self._holds[holder] = hold
        if len(self._holds) > _FEW:
            self._forget_the_dead()
        return hold

    def _forget_the_dead(self) -> None:
        """Forget who ended with a lease that has ended, too."""
        self._holds = {
            holder: hold
            for holder, hold in self._holds.items()
            if not (hold.over and (hold.kept_by or holder).done())
        }

    def _orphan(self) -> Hold | None:
        """What a task holds that has ended: another one runs the end of its block, then."""
        orphans = [holder for holder in self._holds if holder.done()]
        return self._holds.pop(orphans[0]) if len(orphans) == 1 else None

    async def _leave(self, holder: Holder, exc: BaseException | None) -> None:
        hold = self._holds.pop(holder, None) or self._orphan()
        if hold is None:
            raise self._leasing.not_owned()
        local = local_of(hold.backend)
        local.forget(hold)
        try:
            await self._leasing.give_back(hold)
        except asyncio.CancelledError:
            local.give_back(hold.backend, hold.key, hold.token, hold.duration)
            raise
        except GrelmicroError as error:
            if not isinstance(error, LockNotOwnedError):  # nobody can try again
                local.give_back(hold.backend, hold.key, hold.token, hold.duration)
            if exc is None:
                raise
            exc.add_note(f"{type(error).__name__}: {error}")
        else:
            if exc is None and hold.is_lost:
                raise self._leasing.lost(hold)

    async def _acquire(self, holder: Holder, timeout: float | None) -> Hold:
        self._check_reentrance(holder)
        return self._note(holder, await self._leasing.take(timeout))

    async def _acquire_nowait(self, holder: Holder) -> Hold:
        self._check_reentrance(holder)
        hold = await self._leasing.try_take()
        if hold is None:
            raise WouldBlockError(f"the lock {self.name!r} is held by somebody else")
        return self._note(holder, hold)

    def _check_reentrance(self, holder: Holder) -> None:
        held = self._holds.get(holder)
        if held is None:
            return
        if not held.over:
            raise LockReentrantError(
                f"the lock {self.name!r} is held by this task or thread already: "
                "waiting for it would never end"
            )
        local_of(held.backend).forget(held)
        del self._holds[holder]

    async def _extend(self, holder: Holder) -> None:
        hold = self._held_by(holder)
        await self._leasing.extend(hold)
        if hold.over:  # the answer came after the lease had ended
            raise self._leasing.lost(hold)

    async def _release(self, holder: Holder) -> None:
        hold = self._held_by(holder)
        try:
            await self._leasing.give_back(hold)
        except LockNotOwnedError:
            self._drop(holder, hold)
            raise
        self._drop(holder, hold)

    def _held_by(self, holder: Holder) -> Hold:
        hold = self._holds.get(holder)
        if hold is None:
            raise self._leasing.not_owned()
        return hold

    def _drop(self, holder: Holder, hold: Hold) -> None:
        local_of(hold.backend).forget(hold)
        if self._holds.get(holder) is hold:
            del self._holds[holder]

    async def _owned(self, holder: Holder) -> bool:
        hold = self._holds.get(holder)
        if hold is None:
            return False
        try:
            return bool(await hold.backend.owned(name=hold.key, token=hold.token))
        except GrelmicroError:
            raise
        except Exception as error:
            raise LockOwnedCheckError(
                f"the lock {self.name!r} could not be looked at: {type(error).__name__}: {error}"
            ) from error

    def __repr__(self) -> str:
        return f"Lock({self.name!r}, lease_duration={self._leasing.duration:g})"
