"""Taking, extending and giving back the lease of one name."""

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Any

from grelmicro.errors import (
    GrelmicroError,
    LockAcquireError,
    LockLostError,
    LockNotOwnedError,
    LockReleaseError,
    LockTimeoutError,
)
from grelmicro.sync._holds import Hold, new_token
from grelmicro.sync._local import Local, local_of
from grelmicro.sync._queues import Front, Place, Queues

__all__ = ["Leasing", "answers_at_once"]

_LISTEN = 60.0
"""Seconds that a backend is listened to at most; a waiter looks by itself long before."""

_LATE = 0.1
"""Seconds after its time that a waiter lets a request end which is under way, or its last one."""


class Leasing:
    """One name's leases on whatever backend serves now.

    What was asked of the backend and not answered, because the caller was cancelled or the
    connection lost, is given back in the background, since the backend may have granted it.

    Args:
        find: Finds the backend, for every call.
        key: What the backend calls the lease.
        name: What messages call it.
        duration: Seconds that it lives without renewal.
        retry_interval: Seconds after which a waiter looks by itself, if nobody wakes it.
        worker: What tokens begin with.
    """

    def __init__(
        self,
        find: Callable[[], Any],
        key: str,
        *,
        name: str,
        duration: float,
        retry_interval: float = 0.1,
        worker: str | None = None,
    ) -> None:
        self.find = find
        self.key = key
        self.name = name
        self.duration = duration
        self._retry_interval = retry_interval
        self._worker = worker

    async def try_take(self, backend: Any = None) -> Hold | None:
        """Take the lease if it is free.

        Args:
            backend: The backend that serves now, if it was just found.

        Raises:
            LockAcquireError: The backend failed, or answered after the lease had ended.
        """
        if backend is None:
            backend = self.find()
        token, sent_at = new_token(self._worker), monotonic()
        try:
            number = await backend.acquire(name=self.key, token=token, duration=self.duration)
        except GrelmicroError:
            raise
        except Exception as error:
            local_of(backend).give_back(backend, self.key, token, self.duration)
            raise LockAcquireError(_failed(error, "taken", self.name)) from error
        except BaseException:
            local_of(backend).give_back(backend, self.key, token, self.duration)
            raise
        if not number:
            return None
        hold = Hold(backend, self.key, token, number, self.duration, sent_at)
        return hold if monotonic() < hold.deadline else self._in_time(hold)

    def _in_time(self, hold: Hold) -> Hold:
        """A lease that has just been granted; refused if its end came before the answer did."""
        if hold.over:  # somebody else may hold it by now
            local_of(hold.backend).give_back(hold.backend, self.key, hold.token, hold.duration)
            raise LockAcquireError(
                f"the lock {self.name!r} could not be taken: the answer took longer than the lease "
                f"of {hold.duration:g} s lasts"
            )
        return hold

    def take_nowait(self) -> Hold | None:
        """Take the lease if that is a matter of a moment; None when `take` has to be awaited."""
        backend = self.find()
        if not answers_at_once(backend) or self.key in local_of(backend).queues.lines:
            return None
        token, sent_at = new_token(self._worker), monotonic()
        number = backend.acquire_nowait(name=self.key, token=token, duration=self.duration)
        if not number:
            return None
        hold = Hold(backend, self.key, token, number, self.duration, sent_at)
        return hold if monotonic() < hold.deadline else None

    async def take(self, timeout: float | None = None) -> Hold:
        """Take the lease as soon as it is free, after those of this process who came before.

        Raises:
            LockTimeoutError: It was not free within `timeout` seconds; tried once at least.
            LockAcquireError: The backend failed.
        """
        backend = self.find()
        queues = local_of(backend).queues
        hold: Hold | None = None
        place = queues.enter(self.key)
        try:
            if timeout:
                hold = await self._take_within(queues, place, timeout)
            elif timeout == 0 or place is None:
                hold = await self.try_take(backend)
            if hold is None and timeout is None:
                hold = await self._wait(queues, place, None)
        finally:
            queues.leave(self.key, place, hold)
        if hold is None:
            raise LockTimeoutError(
                f"the lock {self.name!r} did not become free within {timeout:g} s"
            )
        return hold

    async def _take_within(self, queues: Queues, place: Place, timeout: float) -> Hold | None:
        until = monotonic() + timeout
        if place is None:
            hold = await self._ask(timeout + _LATE)
            if hold is not None:
                return hold
        left = until - monotonic()
        return await self._wait(queues, place, left) if left > 0 else None

    async def _wait(self, queues: Queues, place: Place, timeout: float | None) -> Hold | None:
        """Wait for one's turn, and for the lease; None when the time is over."""
        try:
            async with asyncio.timeout(timeout):
                if place is not None:
                    await place
                return await self._at_the_front(queues)
        except TimeoutError:  # whoever never came to the front looks once, too
            return await self._ask(_LATE)

    async def _ask(self, seconds: float) -> Hold | None:
        """Take the lease if it is free; None, too, when that is not known within some seconds."""
        try:
            async with asyncio.timeout(seconds):
                return await self.try_take()
        except TimeoutError:
            return None

    async def _at_the_front(self, queues: Queues) -> Hold:
        """Wait for the lease as the only one of this process who talks to the backend."""
        front = queues.fronts[self.key] = Front(self)
        try:
            while True:
                hold = await self._look(front, queues.holder(self.key))
                if hold is not None:
                    return hold
        finally:
            del queues.fronts[self.key]
            if (unwanted := front.take()) is not None:
                local_of(unwanted.backend).give_back(
                    unwanted.backend, self.key, unwanted.token, unwanted.duration
                )

    async def _look(self, front: Front, before: Hold | None) -> Hold | None:
        """Ask for the lease, unless one of this process has it, and wait a while if it is taken."""
        backend = self.find()
        nudge = front.watch()
        pushes = await self._listen(backend)
        try:
            if before is None or before.over:
                hold = await self.try_take(backend)
                if hold is not None:
                    return hold
            await _first_of(nudge, pushes, self._retry_interval)
        finally:
            if pushes is not None:
                pushes.cancel()
        handed = front.take()
        return None if handed is None else self._in_time(handed)

    async def _listen(self, backend: Any) -> "asyncio.Task[None] | None":
        """Begin to wait for the backend's word that the lease may be free, if it gives any."""
        wait = getattr(backend, "wait", None)
        if wait is None:
            return None
        task = local_of(backend).start(wait(name=self.key, timeout=_LISTEN))
        await asyncio.sleep(0)  # it listens before the lease is asked for
        return task

    async def extend(self, hold: Hold) -> None:
        """Let a held lease last for its duration from now.

        Raises:
            LockLostError: It had ended.
            LockAcquireError: The backend failed.
        """
        sent_at = monotonic()
        try:
            number = await hold.backend.acquire(
                name=self.key, token=hold.token, duration=hold.duration
            )
        except GrelmicroError:
            raise
        except Exception as error:
            raise LockAcquireError(_failed(error, "extended", self.name)) from error
        if number == hold.fencing_token:
            hold.granted(sent_at)
            return
        if number:  # taken anew: somebody may have held it in between
            local_of(hold.backend).give_back(hold.backend, self.key, hold.token, hold.duration)
        raise self.lost(hold)

    async def give_back(self, hold: Hold) -> None:
        """Give a held lease back, or hand it over to the next of this process who waits for it.

        Raises:
            LockLostError: It had ended.
            LockReleaseError: The backend failed; the lease lasts until it ends by itself.
        """
        local = local_of(hold.backend)
        heir = local.heir(hold)
        try:
            if heir is not None:
                is_ours = await self._hand_over(hold, heir, local)
            else:
                is_ours = await hold.backend.release(name=self.key, token=hold.token)
        except GrelmicroError:
            raise
        except Exception as error:
            raise LockReleaseError(_failed(error, "given back", self.name)) from error
        finally:
            hold.given_back = True
            if hold.retaken:
                local.give_back(hold.backend, self.key, hold.token, hold.duration)
        local.freed(self.key)
        if not is_ours:
            raise self.lost(hold)

    def give_back_nowait(self, hold: Hold) -> bool:
        """Give a held lease back if that is a matter of a moment.

        False when `give_back` has to be awaited: it asks a server, or has something to tell.
        """
        backend = hold.backend
        if hold.renewing or not answers_at_once(backend):
            return False
        if not backend.release_nowait(name=self.key, token=hold.token):
            return False
        hold.given_back = True
        local_of(backend).given_back(hold)
        return not hold.is_lost

    async def _hand_over(self, hold: Hold, heir: Front, local: Local) -> bool:
        """Hand a lease over in one step; False when it had ended."""
        seconds = heir.leasing.duration
        token, sent_at = new_token(heir.leasing._worker), monotonic()
        try:
            number = await hold.backend.hand_over(
                name=self.key, token=hold.token, to=token, duration=seconds
            )
        except BaseException:  # it may have been done
            local.give_back(hold.backend, self.key, token, seconds)
            raise
        if number:
            local.bequeath(
                heir,
                Hold(hold.backend, self.key, token, number, seconds, sent_at, run=hold.run + 1),
            )
        return bool(number)

    def lost(self, hold: Hold) -> LockLostError:
        """Tell the holder that the lease is lost, and make the error that says so."""
        hold.lose()
        return LockLostError(
            f"the lock {self.name!r} was lost: its lease of {hold.duration:g} s ended, or was "
            "deleted, while it was held"
        )

    def not_owned(self) -> LockNotOwnedError:
        """The error of somebody who does not hold the lease."""
        return LockNotOwnedError(f"the lock {self.name!r} is not held by this task or thread")


def answers_at_once(backend: Any) -> bool:
    """Whether a backend has answers without being awaited, and nobody changed what gives them."""
    is_own = backend.acquire == getattr(backend, "_shipped_acquire", None)
    return bool(is_own and backend.release == backend._shipped_release)


async def _first_of(
    freed: "asyncio.Future[None]", pushes: "asyncio.Task[None] | None", interval: float
) -> None:
    """Wait until the lease may be free, as somebody says, or for the interval."""
    awaited: set[asyncio.Future[None]] = {freed}
    if pushes is not None and not (pushes.done() and pushes.exception()):
        awaited.add(pushes)
    await asyncio.wait(awaited, timeout=interval, return_when=asyncio.FIRST_COMPLETED)


def _failed(error: Exception, what: str, name: str) -> str:
    return f"the lock {name!r} could not be {what}: {type(error).__name__}: {error}"
