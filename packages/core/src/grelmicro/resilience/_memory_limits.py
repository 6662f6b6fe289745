"""The rate limiter backend that lives in this process."""

import asyncio
import sys
import threading
from collections import deque
from collections.abc import Callable
from time import monotonic_ns
from types import TracebackType
from typing import Self

from grelmicro._threads import noted_loop
from grelmicro.resilience._limits import RateLimitConfig
from grelmicro.resilience._quotas import Bucket, Quota, Window, quota_of
from grelmicro.resilience._result import RateLimitResult, new_result

__all__ = ["MemoryRateLimiterAdapter", "has_gil"]

_SWEEP_SHARE = 2
"""Keys that every new one looks at, to forget those that are idle: more than it adds."""

_SWEEP_EVERY = 1_000_000_000
"""Nanoseconds after which a call looks at some more, where no key is new."""

_SWEEP_BATCH = 500
"""Keys that it then looks at."""

_BITS = 30
"""Bits for what is taken, up to a billion."""

_TAKEN = (1 << _BITS) - 1

Take = Callable[[str, int], RateLimitResult | None]


class MemoryRateLimiterAdapter:
    """Rate limits in the memory of this process, for its tasks and threads.

    Time is the monotonic clock's, so that a step of the wall clock changes nothing. What is idle,
    and has its full quota, is forgotten by the calls that follow: what is kept is in proportion to
    the keys in use. Limits stay while it is closed. Async calls also work while it is not open.
    """

    _loop: asyncio.AbstractEventLoop | None = None

    def __init__(self) -> None:
        self._strategies: dict[Quota, MemoryBuckets | MemoryWindows] = {}
        self._entered = 0

    async def __aenter__(self) -> Self:
        """Note the running loop, for callers in threads."""
        self._entered += 1
        self._loop = noted_loop()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Forget the loop."""
        self._entered -= 1
        if not self._entered:
            self._loop = None

    def bind(self, config: RateLimitConfig) -> "MemoryBuckets | MemoryWindows":
        """The strategy of a configuration: one for all that are equal."""
        quota = quota_of(config)
        made = MemoryBuckets(quota) if isinstance(quota, Bucket) else MemoryWindows(quota)
        return self._strategies.setdefault(quota, made)


class _Keys:
    """The keys that somebody used lately, and what is known of each.

    `acquire_nowait` is one step, which no other thread comes in between: from its look at a key to
    what it stores it calls nothing, and only in calls does an interpreter with a lock of its own
    change threads. Nor does it make what a garbage collection looks at, which Python 3.11 may begin
    at once, and which calls finalizers: what is known is one whole number. An interpreter without
    such a lock gets ours. All other changes are made under ours.
    """

    def __init__(self) -> None:
        self.due: list[int] = [0]
        """Nanoseconds of the clock after which a call has to look for idle keys; in a list, where
        who decides reads it faster than an attribute."""
        self.states: dict[str, int] = {}
        """What is known of each: 0 is nothing."""
        self._order: deque[str] = deque()
        self._lock = threading.Lock()
        take = self._taker()
        self.acquire_nowait: Take = take if has_gil() else self._locked(take)
        """The decision for a key that is known; None for another, or when a sweep is due."""

    async def acquire(self, *, key: str, cost: int) -> RateLimitResult:
        """Take permits if they are there."""
        while (result := self.acquire_nowait(key, cost)) is None:
            self._make_room(key)
        return result

    _shipped_acquire = acquire

    async def reset(self, *, key: str) -> None:
        """Let nothing be taken; the key stays until it is swept."""
        with self._lock:
            if key in self.states:
                self.states[key] = 0

    def _make_room(self, key: str) -> None:
        with self._lock:
            now = monotonic_ns()
            if now > self.due[0]:
                self.due[0] = now + _SWEEP_EVERY
                self._sweep(now, _SWEEP_BATCH)
            if key not in self.states:
                self._sweep(now, _SWEEP_SHARE)
                self.states[key] = 0
                self._order.append(key)

    def _sweep(self, now: int, most: int) -> None:
        """Look at the keys that were not looked at for longest, and forget the idle ones."""
        for _ in range(min(most, len(self._order))):
            key = self._order.popleft()
            state = self.states[key]
            is_idle = self._is_idle(state, now)
            if is_idle and self.states[key] is state:  # still: one step, as above
                del self.states[key]
            else:
                self._order.append(key)

    def _locked(self, take: Take) -> Take:
        def locked(key: str, cost: int) -> RateLimitResult | None:
            with self._lock:
                return take(key, cost)

        return locked

    def _taker(self) -> Take:
        raise NotImplementedError

    def _is_idle(self, state: int, now: int) -> bool:
        raise NotImplementedError


class MemoryBuckets(_Keys):
    """A token bucket, or a sliding window, for each key.

    Of each it knows the time at which nothing will be owed, in units that pass at the rate.
    """

    def __init__(self, quota: Bucket) -> None:
        self._quota = quota
        super().__init__()

    async def peek(self, *, key: str, cost: int) -> RateLimitResult:
        """Tell what there is."""
        owed = max(0, self.states.get(key, 0) - monotonic_ns() * self._quota.rate)
        return self._answer(owed, cost)

    def _taker(self) -> Take:
        limit, rate, unit = self._quota.limit, self._quota.rate, self._quota.unit * 1000
        full, rate_a_second = limit * unit, rate * 1e9
        states, answer, due = self.states, self._answer, self.due

        def take(key: str, cost: int) -> RateLimitResult | None:
            now = monotonic_ns()
            base = now * rate
            if now > due[0]:
                return None
            try:
                free_at = states[key]
            except KeyError:
                return None
            if free_at < base:
                free_at = base
            free_at += cost * unit
            owed = free_at - base
            if owed > full:
                return answer(owed - cost * unit, cost)
            states[key] = free_at
            left = limit + -owed // unit  # what is owed is small as a rule, and quick to divide
            return new_result(RateLimitResult, (True, limit, left, 0.0, owed / rate_a_second))

        return take

    def _answer(self, owed: int, cost: int) -> RateLimitResult:
        return self._quota.look(-(-owed // 1000), 0, cost)  # units of a microsecond, rounded up

    def _is_idle(self, state: int, now: int) -> bool:
        return state <= now * self._quota.rate


class MemoryWindows(_Keys):
    """A fixed window for each key: the time of its end, and in the low bits what is taken."""

    def __init__(self, quota: Window) -> None:
        self._quota = quota
        super().__init__()

    async def peek(self, *, key: str, cost: int) -> RateLimitResult:
        """Tell what there is."""
        now, state = monotonic_ns(), self.states.get(key, 0)
        left = (state >> _BITS) - now
        return self._answer(state & _TAKEN, left, cost) if left > 0 else self._answer(0, 0, cost)

    def _taker(self) -> Take:
        limit, length = self._quota.limit, self._quota.unit * 1000
        states, answer, due = self.states, self._answer, self.due

        def take(key: str, cost: int) -> RateLimitResult | None:
            now = monotonic_ns()
            if now > due[0]:
                return None
            try:
                state = states[key]
            except KeyError:
                return None
            end = state >> _BITS
            if end <= now:
                end, state = now + length, 0
            taken = (state & _TAKEN) + cost
            left = limit - taken
            if left < 0:
                return answer(taken - cost, end - now, cost)
            states[key] = end << _BITS | taken
            return new_result(RateLimitResult, (True, limit, left, 0.0, (end - now) / 1e9))

        return take

    def _answer(self, taken: int, left: int, cost: int) -> RateLimitResult:
        return self._quota.look(taken, -(-left // 1000), cost)

    def _is_idle(self, state: int, now: int) -> bool:
        return state >> _BITS <= now


def has_gil() -> bool:
    """Whether only one thread runs at a time, and changes between calls only."""
    return bool(getattr(sys, "_is_gil_enabled", lambda: True)())
