"""What a synchronization backend promises."""

import asyncio
from types import TracebackType
from typing import Protocol, Self

__all__ = ["SyncBackend"]


class SyncBackend(Protocol):
    """Named leases with fencing tokens; the backend's own clock decides when one ends."""

    _loop: asyncio.AbstractEventLoop | None

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> bool | None: ...

    # Optional: `async def wait(self, *, name: str, timeout: float) -> None` returns as soon as the
    # lease may be free, or after `timeout` seconds. Who waits calls it before it asks again, so it
    # has to listen from its first step on. Without it, waiters ask every now and then. A process
    # that gives a lease back asks for its next waiter at once: a backend that is to be fair to the
    # others tells the one that has waited longest, and keeps the lease for it a moment.
    #
    # Optional: `async def hand_over(self, *, name: str, token: str, to: str, duration: float)`
    # releases and acquires in one step: the lease that `token` holds is `to`'s from now on, for
    # `duration` seconds, and nobody else could have taken it in between. It returns the new fencing
    # token; the same one when `to` holds the lease already; 0 when neither does. It saves a process
    # whose tasks take turns a round trip and a message each.
    #
    # Optional, for backends in this process: plain methods `acquire_nowait` and `release_nowait`,
    # which do what `acquire` and `release` do. They are used while these two are the methods that
    # `_shipped_acquire` and `_shipped_release` are as well, so that a subclass that changes one is
    # honoured.

    async def acquire(self, *, name: str, token: str, duration: float) -> int:
        """Take or extend the lease for `duration` seconds.

        Returns:
            The fencing token: positive, and per name rising with every change of holder. The
            holder's own `token` again extends and returns the same number; 0 when somebody else
            holds the lease.
        """
        ...

    async def release(self, *, name: str, token: str) -> bool:
        """Give the lease back; False when `token` does not hold it."""
        ...

    async def locked(self, *, name: str) -> bool:
        """Tell whether anybody holds the lease."""
        ...

    async def owned(self, *, name: str, token: str) -> bool:
        """Tell whether `token` holds the lease."""
        ...
