"""A lease that somebody holds, and how its holder learns that it ended."""

import asyncio
import itertools
import math
import os
from collections.abc import Callable
from time import monotonic
from typing import Any, Protocol

from grelmicro._process import current

__all__ = ["Hold", "Holder", "LockHandle", "Lost", "new_token"]


class Lost:
    """Tells that a lease ended while it was held."""

    __slots__ = ("_is_set", "_waiters")

    def __init__(self) -> None:
        self._is_set = False
        self._waiters: list[asyncio.Future[None]] = []

    def is_set(self) -> bool:
        """Whether it has ended."""
        return self._is_set

    async def wait(self) -> None:
        """Wait until it has ended; for code that stops what it does as soon as it may not go on."""
        if not self._is_set:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            try:
                await waiter
            finally:
                self._waiters.remove(waiter)

    def set(self) -> None:
        """It has ended."""
        self._is_set = True
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    def __repr__(self) -> str:
        return f"<lost: {self._is_set}>"


class Holder(Protocol):
    """A task, a thread or a block: whoever may hold a lease."""

    def done(self) -> bool:
        """Whether it has ended, and will not give back what it holds."""
        ...


class LockHandle:
    """What the holder of a lock has in its hands.

    Attributes:
        fencing_token: A positive number that rises, for each name, with every change of holder.
            Send it along to whatever the lock guards: a store that refuses lower numbers than it
            has seen is safe from a holder that was late to learn that its lease had ended.
    """

    __slots__ = ("_lost", "fencing_token")

    def __init__(self, fencing_token: int) -> None:
        self.fencing_token: int = fencing_token
        self._lost: Lost | None = None

    @property
    def lost(self) -> Lost:
        """Set when the lease has ended, or may have: `lost.is_set()`, `await lost.wait()`."""
        if self._lost is None:
            self._lost = Lost()
        return self._lost

    def __repr__(self) -> str:
        return f"<{type(self).__name__} fencing_token={self.fencing_token}>"


class Hold(LockHandle):
    """One holding of one lease.

    Args:
        backend: Who granted it.
        key: What the backend calls it.
        token: Whose it is: of this holding alone.
        fencing_token: Its number.
        duration: Seconds that the lease lives without renewal.
        sent_at: The monotonic time before the request was sent, from which the lease is counted.
        run: How many holders of this process handed it over, one to the other, up to this one.
    """

    __slots__ = (
        "backend",
        "deadline",
        "duration",
        "given_back",
        "kept_by",
        "key",
        "renew_at",
        "renewing",
        "retaken",
        "run",
        "token",
        "until",
    )

    def __init__(
        self,
        backend: Any,
        key: str,
        token: str,
        fencing_token: int,
        duration: float,
        sent_at: float,
        run: int = 0,
    ) -> None:
        self.fencing_token = fencing_token
        self._lost = None
        self.backend = backend
        self.key = key
        self.token = token
        self.duration = duration
        self.run = run
        self.until = math.inf
        """The monotonic time after which it is not renewed any more."""
        self.kept_by: Holder | None = None
        """Who is to be there for it to be renewed."""
        self.renewing = self.retaken = self.given_back = False
        self.deadline = sent_at + duration
        self.renew_at = sent_at + duration / 3

    def granted(self, sent_at: float) -> None:
        """Count the lease anew from the time that a request was sent which granted it."""
        self.deadline = sent_at + self.duration
        self.renew_at = sent_at + self.duration / 3

    @property
    def over(self) -> bool:
        """Whether the lease ended, as far as this process can tell."""
        return self.is_lost or monotonic() >= self.deadline

    @property
    def is_lost(self) -> bool:
        """Whether its holder was told that it ended."""
        return self._lost is not None and self._lost.is_set()

    def lose(self) -> None:
        """Tell the holder."""
        self.lost.set()


class _Tokens:
    """What tokens are made of: a random part for each process, and a count."""

    def __init__(self) -> None:
        self.next: Callable[[], int] = itertools.count().__next__
        self.process = 0
        self.prefix = ""

    def renew(self) -> None:
        """Before the first token of this process, or of a forked child."""
        self.prefix = f"{os.urandom(12).hex()}-"
        self.process = current.id


_tokens = _Tokens()


def new_token(worker: str | None = None) -> str:
    """Make a token that no other holding has, in this process or in any other."""
    if _tokens.process != current.id:
        _tokens.renew()
    token = f"{_tokens.prefix}{_tokens.next()}"
    return f"{worker}:{token}" if worker else token
