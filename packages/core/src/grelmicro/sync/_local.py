"""What the primitives of one process share about one backend."""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Coroutine
from threading import get_ident
from time import monotonic
from typing import Any

from grelmicro._process import current
from grelmicro.errors import LockNotOwnedError, OutOfContextError
from grelmicro.sync._holds import Hold
from grelmicro.sync._queues import Front, Queues

__all__ = ["Local", "local_of"]

_log = logging.getLogger("grelmicro.sync")

_RETRY = 0.05
"""Seconds between two tries to give back what nobody wants."""

_AGAIN = 0.02
"""Seconds after which such a lease is given back once more: the request that took it may still be
on its way over a connection that was lost, and overtaken."""

_RUN = 7
"""Holders of one process to whom a lease is handed over, one after the other, before it is given
back: other processes want it, too."""

_SETTLE = 2.0
"""Seconds that a backend which is being closed waits for what is still owed to it."""

_TICK = 0.01
"""Seconds between two looks at leases, at least."""


class Local:
    """One backend's waiters, held leases and background work, on one thread's event loop.

    One timer serves all leases that renew themselves.
    """

    def __init__(self) -> None:
        self.process = current.id
        self.thread = get_ident()
        self.queues = Queues()
        self._holds: dict[Hold, None] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._owed: set[asyncio.Task[None]] = set()
        self._retries = asyncio.Lock()
        self._timer: asyncio.TimerHandle | None = None
        self._looks_at = math.inf
        self._loop: asyncio.AbstractEventLoop | None = None

    # Waiting.

    def freed(self, key: str) -> None:
        """A lease was given back: its next holder may be in this process, if not elsewhere."""
        if self.queues.fronts and key in self.queues.fronts:
            self.queues.fronts[key].wake()

    def given_back(self, hold: Hold) -> None:
        """A lease was given back: it is renewed no more, and its next holder may be here."""
        self._holds.pop(hold, None)
        if self.queues.lines:
            self.queues.given_back(hold)
            self.freed(hold.key)

    def heir(self, hold: Hold) -> Front | None:
        """Who in this process may be handed over a lease, rather than that it is given back."""
        if not self.queues.lines:
            return None
        self.queues.given_back(hold)
        if hold.run >= _RUN:
            return None
        front = self.queues.fronts.get(hold.key)
        return front if front is not None and hasattr(hold.backend, "hand_over") else None

    def bequeath(self, front: Front, hold: Hold) -> None:
        """Hand a lease over; back to the backend with it if nobody waits for it any more."""
        if self.queues.fronts.get(hold.key) is front and front.hold is None:
            front.hold = hold
            front.wake()
        else:
            self.give_back(hold.backend, hold.key, hold.token, hold.duration)

    # Renewing.

    def renew(self, hold: Hold) -> None:
        """Renew a lease until `forget`, and tell its holder if that fails."""
        self._holds[hold] = None
        if hold.renew_at < self._looks_at or (self._loop is not None and self._loop.is_closed()):
            self._arm(hold.renew_at)

    def forget(self, hold: Hold) -> None:
        """Renew a lease no more."""
        self._holds.pop(hold, None)

    def _arm(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        now = monotonic()
        self._looks_at = max(at, now + _TICK)
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(self._looks_at - now, self._tick)

    def _tick(self) -> None:
        self._timer, self._looks_at = None, math.inf
        now = monotonic()
        for hold in [*self._holds]:
            if now >= hold.deadline:
                self.forget(hold)
                hold.lose()
            elif hold.kept_by is not None and hold.kept_by.done():
                hold.until = now
            elif now >= hold.renew_at and not hold.renewing and now < hold.until:
                hold.renewing = True
                self.start(self._renew(hold))
        if self._holds:
            self._arm(min(_next_look(hold, now) for hold in self._holds))

    async def _renew(self, hold: Hold) -> None:
        sent_at = monotonic()
        try:
            number = await hold.backend.acquire(
                name=hold.key, token=hold.token, duration=hold.duration
            )
        except Exception as error:  # the next look tries again, as long as the lease lasts
            _log.warning("a lease could not be renewed (%s); trying again", type(error).__name__)
            hold.renew_at = monotonic() + hold.duration / 10
            number = None
        finally:
            hold.renewing = False
        if hold not in self._holds:
            # It is given back: if that comes first, this has taken it anew. If not, to give it back
            # here would come between, and its holder would be told that it had lost it.
            hold.retaken = True
            if hold.given_back:
                self.give_back(hold.backend, hold.key, hold.token, hold.duration)
        elif number is not None and number != hold.fencing_token:
            self._lost(hold, took_anew=number != 0)
        else:
            if number is not None:
                hold.granted(sent_at)
            self.renew(hold)

    def _lost(self, hold: Hold, *, took_anew: bool) -> None:
        self.forget(hold)
        hold.lose()
        if took_anew:  # after it had ended: somebody may have held it in between
            self.give_back(hold.backend, hold.key, hold.token, hold.duration)

    # In the background.

    def start(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None] | None":
        """Run something in the background; None when the loop is at its end."""
        try:
            task = asyncio.get_running_loop().create_task(work)
        except RuntimeError:
            work.close()
            return None
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # whoever waits for it has it; for nobody else is it news

    def give_back(self, backend: Any, key: str, token: str, duration: float) -> None:
        """See to it that nobody's lease does not last: it may have been taken, or not."""
        self.owe(self._give_back(backend, key, token, monotonic() + duration))

    async def _give_back(self, backend: Any, key: str, token: str, until: float) -> None:
        for pause in (_AGAIN, 0):
            await self.done_until(until, lambda: backend.release(name=key, token=token))
            self.freed(key)
            await asyncio.sleep(pause)

    def owe(self, work: Coroutine[Any, Any, None]) -> None:
        """Do in the background what has to be done before the backend is closed."""
        if not self._owed:
            self._retries = asyncio.Lock()  # of the loop that runs now
        task = self.start(work)
        if task is not None:
            self._owed.add(task)
            task.add_done_callback(self._owed.discard)

    async def done_until(self, until: float, ask: Callable[[], Awaitable[object]]) -> None:
        """Ask until the backend has answered, or is closed, or the lease has ended by itself.

        At once, and then by turns with all others who wait for it: there may be thousands.
        """
        if await _answered(ask):
            return
        while monotonic() < until:  # no event tells that a server is there again
            async with self._retries:
                if monotonic() >= until or await _answered(ask):
                    return
                await asyncio.sleep(_RETRY)

    async def settle(self) -> None:
        """Wait a while for what is still owed to the backend, which is about to be closed."""
        deadline = monotonic() + _SETTLE
        while self._owed and (left := deadline - monotonic()) > 0:
            await asyncio.wait([*self._owed], timeout=left)


def local_of(backend: Any) -> Local:
    """What this process knows about a backend, in this thread; a forked child begins anew."""
    local: Local | None = getattr(backend, "_local", None)
    if local is None or local.thread != get_ident() or local.process != current.id:
        local = backend._local = _another(backend)
    return local


def _another(backend: Any) -> Local:
    """The one of another thread than that of the last caller."""
    known: dict[tuple[int, int], Local] | None = getattr(backend, "_locals", None)
    if known is None:
        known = backend._locals = {}
    return known.setdefault((current.id, get_ident()), Local())


async def _answered(ask: Callable[[], Awaitable[object]]) -> bool:
    try:
        await ask()
    except (LockNotOwnedError, OutOfContextError):
        return True
    except Exception:
        return False
    return True


def _next_look(hold: Hold, now: float) -> float:
    if hold.renewing or now >= hold.until:
        return hold.deadline
    return min(hold.renew_at, hold.deadline)
