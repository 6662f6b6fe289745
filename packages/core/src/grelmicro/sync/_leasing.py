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

__all__ = ["Leasing"]

_LISTEN = 60.0
"""Seconds that a backend is listened to at most; a waiter looks by itself long before."""


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

    async def try_take(self) -> Hold | None:
        """Take the lease if it is free.

        Raises:
            LockAcquireError: The backend failed.
        """
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
        return Hold(backend, self.key, token, number, self.duration, sent_at)

    async def take(self, timeout: float | None = None) -> Hold:
        """Take the lease as soon as it is free, after those of this process who came before.

        Raises:
            LockTimeoutError: It was not free within `timeout` seconds; tried once at least.
            LockAcquireError: The backend failed.
        """
        local = local_of(self.find())
        tried = not local.waiting(self.key) or timeout == 0
        if tried and (hold := await self.try_take()) is not None:
            return hold
        try:
            async with asyncio.timeout(timeout):
                return await self._wait_for_it(local)
        except LockTimeoutError:
            raise
        except TimeoutError:
            # Whoever never came to the front looks once; it may be free at this very moment.
            if not tried and (hold := await self.try_take()) is not None:
                return hold
            raise LockTimeoutError(
                f"the lock {self.name!r} did not become free within {timeout:g} s"
            ) from None

    async def _wait_for_it(self, local: Local) -> Hold:
        queue = local.queue(self.key)
        try:
            async with queue.turn():
                while True:
                    freed = queue.watch()
                    pushes = await self._listen(local)
                    try:
                        if (hold := await self.try_take()) is not None:
                            return hold
                        await _first_of(freed, pushes, self._retry_interval)
                    finally:
                        if pushes is not None:
                            pushes.cancel()
        finally:
            local.left(self.key)

    async def _listen(self, local: Local) -> "asyncio.Task[None] | None":
        """Begin to wait for the backend's word that the lease may be free, if it gives any."""
        wait = getattr(self.find(), "wait", None)
        if wait is None:
            return None
        task = local.start(wait(name=self.key, timeout=_LISTEN))
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
        """Give a held lease back.

        Raises:
            LockLostError: It had ended.
            LockReleaseError: The backend failed; the lease lasts until it ends by itself.
        """
        try:
            released = await hold.backend.release(name=self.key, token=hold.token)
        except GrelmicroError:
            raise
        except Exception as error:
            raise LockReleaseError(_failed(error, "given back", self.name)) from error
        local_of(hold.backend).freed(hold.backend, self.key)
        if not released:
            raise self.lost(hold)

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
