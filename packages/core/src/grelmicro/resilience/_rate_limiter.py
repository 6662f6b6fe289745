"""`RateLimiter`: so much for each key, in the whole fleet."""

import asyncio
import logging
from collections.abc import Callable
from time import monotonic
from typing import Any, NoReturn, ParamSpec, Self, TypeVar, overload

from grelmicro._component import Component
from grelmicro._sources import backend_source
from grelmicro.errors import GrelmicroError, RateLimitExceededError, ResilienceError
from grelmicro.resilience._limited import limited
from grelmicro.resilience._limiter_checks import (
    MAX_KEY,
    check_cost,
    check_key,
    check_name,
    check_timeout,
)
from grelmicro.resilience._limiter_contract import (
    Nowait,
    RateLimiterBackend,
    RateLimiterStrategy,
    nowait_of,
)
from grelmicro.resilience._limiter_queues import Queue, queue_of
from grelmicro.resilience._limiter_threads import ThreadRateLimiter
from grelmicro.resilience._limits import (
    FixedWindowConfig,
    RateLimitConfig,
    SlidingWindowConfig,
    TokenBucketConfig,
)
from grelmicro.resilience._quotas import quota_of
from grelmicro.resilience._result import RateLimitResult

__all__ = ["RateLimiter"]

P = ParamSpec("P")
R = TypeVar("R")

Backend = RateLimiterBackend | Any | str | None

_ONE = 1
"""The usual cost, which is known to be in range."""

_SILENCE = 10.0
"""Seconds in which a backend that fails now and then is reported once."""

_log = logging.getLogger("grelmicro.resilience")


class RateLimiter:
    """A quota of permits for each key, which all processes on one backend share.

    A decision is one round trip, and the backend's clock decides. A call that is refused takes
    nothing. One that is cancelled may have taken its permits.

    Limiters of one name and equal settings share their quotas; other settings are other quotas.

    Args:
        name: What it limits: 1 to 256 printable characters.
        config: A `TokenBucketConfig`, `SlidingWindowConfig` or `FixedWindowConfig`.
        backend: An adapter, a `RateLimit` component or the name of one; by default the open app's.

    Raises:
        ResilienceSettingsValidationError: The name or the configuration cannot be used.
        TypeError: `backend` is none of the above.
    """

    def __init__(self, name: str, config: RateLimitConfig, *, backend: Backend = None) -> None:
        quota_of(config)  # which refuses what is none
        self._name = check_name(name)
        self._config = config
        self._limit = config.limit
        # The first colon ends the name: no two limiters' keys meet.
        self._prefix = name.replace("%", "%25").replace(":", "%3A") + ":"
        self._find: Callable[[], RateLimiterBackend] = backend_source("ratelimiter", backend)
        self._binding: tuple[Any, Any, Any, Any, Any, Any] = (None, None, None, (), None, None)
        is_looked_up = backend is None or isinstance(backend, str | Component)
        self._given: Any = None if is_looked_up else backend  # which spares a call for each call
        self._is_away = False
        self._silent_until = 0.0
        self._queues: dict[object, Queue] = {}

    @classmethod
    def token_bucket(
        cls,
        name: str,
        *,
        capacity: int,
        refill_rate: float,
        fail_open: bool = False,
        backend: Backend = None,
    ) -> Self:
        """Make a limiter with a bucket that fills steadily; see `TokenBucketConfig`."""
        config = TokenBucketConfig(capacity=capacity, refill_rate=refill_rate, fail_open=fail_open)
        return cls(name, config, backend=backend)

    @classmethod
    def sliding_window(
        cls,
        name: str,
        *,
        limit: int,
        window: float,
        fail_open: bool = False,
        backend: Backend = None,
    ) -> Self:
        """Make a limiter with a window that slides; see `SlidingWindowConfig`."""
        config = SlidingWindowConfig(limit=limit, window=window, fail_open=fail_open)
        return cls(name, config, backend=backend)

    @classmethod
    def gcra(
        cls,
        name: str,
        *,
        limit: int,
        window: float,
        fail_open: bool = False,
        backend: Backend = None,
    ) -> Self:
        """Make what `sliding_window` makes, whose older name this is."""
        return cls.sliding_window(
            name, limit=limit, window=window, fail_open=fail_open, backend=backend
        )

    @classmethod
    def fixed_window(
        cls,
        name: str,
        *,
        limit: int,
        window: float,
        fail_open: bool = False,
        backend: Backend = None,
    ) -> Self:
        """Make a limiter with a window that begins with its first permit; `FixedWindowConfig`."""
        config = FixedWindowConfig(limit=limit, window=window, fail_open=fail_open)
        return cls(name, config, backend=backend)

    @property
    def name(self) -> str:
        """What it limits."""
        return self._name

    @property
    def config(self) -> RateLimitConfig:
        """How much it lets through."""
        return self._config

    @property
    def backend(self) -> RateLimiterBackend:
        """The backend that serves now."""
        return self._find()

    @property
    def from_thread(self) -> ThreadRateLimiter:
        """The same limiter for worker threads."""
        return ThreadRateLimiter(self)

    @overload
    def __call__(self, function: Callable[P, R], /) -> Callable[P, R]: ...

    @overload
    def __call__(
        self, /, *, key: str | Callable[..., str] | None = None, cost: int = 1
    ) -> Callable[[Callable[P, R]], Callable[P, R]]: ...

    def __call__(
        self,
        function: Callable[..., Any] | None = None,
        /,
        *,
        key: str | Callable[..., str] | None = None,
        cost: int = 1,
    ) -> Any:
        """Limit the calls of a sync or async function: `@limiter`, or `@limiter(key="{user}")`.

        A call that is refused raises RateLimitExceededError. A synchronous function is for worker
        threads, and needs the backend to be open.

        Args:
            function: The function, when there are no settings.
            key: A template over the parameters, such as `user:{user_id}`, or a function of the
                same arguments that returns the key; by default one key for all calls.
            cost: Permits of a call.

        Raises:
            ResilienceSettingsValidationError: `cost` is out of range, or the template malformed.
            TypeError: What is decorated is no function, or a generator.
        """
        check_cost(cost, self._limit)
        if function is not None:
            return limited(self, function, key, cost)
        return lambda function: limited(self, function, key, cost)

    async def acquire(self, *, key: str, cost: int = _ONE) -> RateLimitResult:
        """Take `cost` permits for `key`, if there are that many.

        Args:
            key: Who is limited: an address, a user id. Any string of 1 to 65,536 characters.
            cost: Permits to take, from 1 to the limit.

        Returns:
            The decision: true when the permits were taken. With `fail_open`, while the backend
            cannot be asked, it is true and nothing is `remaining`.

        Raises:
            ResilienceSettingsValidationError: `cost` or `key` is out of range; a ValueError.
            NoActiveAppError: No backend was given and no app is open.
            ResilienceError: The backend failed, which is the `__cause__`; not with `fail_open`.
        """
        backend = self._given or self._find()
        bound, cls, bind, patched, strategy, nowait = self._binding
        if backend is not bound or "bind" in patched or cls.bind is not bind:
            strategy, nowait = self._bind(backend)
        if cost is not _ONE:
            check_cost(cost, self._limit)
        if nowait is not None and key.__class__ is str:
            known: RateLimitResult | None = nowait(self._prefix + key, cost)
            if known is not None:
                return known
        if key.__class__ is not str or not key.isascii() or not 0 < len(key) <= MAX_KEY:
            check_key(key)
        try:
            result: RateLimitResult = await strategy.acquire(key=self._prefix + key, cost=cost)
        except Exception as error:
            return self._undecided(error)
        if self._is_away:
            self._is_back()
        return result

    async def acquire_or_raise(self, *, key: str, cost: int = 1) -> RateLimitResult:
        """Take `cost` permits for `key`, or raise.

        Raises:
            RateLimitExceededError: There are not that many now; it says when there will be.
            Exception: What `acquire` raises.
        """
        result = await self.acquire(key=key, cost=cost)
        if not result.allowed:
            raise RateLimitExceededError(key, result.retry_after, result)
        return result

    async def wait(
        self, *, key: str, cost: int = 1, timeout: float | None = None
    ) -> RateLimitResult:
        """Take `cost` permits for `key` as soon as there are that many.

        Of those who wait in one process and event loop, only the first asks the backend: they are
        served in the order of arrival.

        Args:
            key: As in `acquire`.
            cost: As in `acquire`.
            timeout: Seconds to wait at most; the decisions themselves have the backend's timeout.

        Raises:
            RateLimitExceededError: The permits cannot be there in time. It is raised as soon as
                that is known.
            Exception: What `acquire` raises.
        """
        check_key(key)
        check_cost(cost, self._limit)
        seconds = check_timeout(timeout)
        until = None if seconds is None else monotonic() + seconds
        with queue_of(self._queues, (asyncio.get_running_loop(), key)) as queue:
            if not await queue.turn(until):
                raise RateLimitExceededError(key, queue.retry_after)
            try:
                return await self._first_in_line(queue, key, cost, until)
            finally:
                queue.next()

    async def peek(self, *, key: str, cost: int = 1) -> RateLimitResult:
        """Tell whether `acquire` would be allowed now, and what is left; take nothing.

        Raises:
            Exception: What `acquire` raises.
        """
        check_key(key)
        check_cost(cost, self._limit)
        strategy, _ = self._bind(self._find())
        try:
            return await strategy.peek(key=self._prefix + key, cost=cost)
        except Exception as error:
            return self._undecided(error)

    async def reset(self, *, key: str) -> None:
        """Give `key` its full quota.

        Those who `wait` for it already sleep on for as long as they were told.

        Raises:
            ResilienceSettingsValidationError: `key` is out of range.
            NoActiveAppError: No backend was given and no app is open.
            ResilienceError: The backend failed, with `fail_open` too; it may be done, or not.
        """
        check_key(key)
        strategy, _ = self._bind(self._find())
        try:
            await strategy.reset(key=self._prefix + key)
        except Exception as error:
            self._failed(error, "reset a key")

    async def _first_in_line(
        self, queue: Queue, key: str, cost: int, until: float | None
    ) -> RateLimitResult:
        while not (result := await self.acquire(key=key, cost=cost)):
            queue.expect(result.retry_after)
            if until is not None and monotonic() + result.retry_after > until:
                raise RateLimitExceededError(key, result.retry_after, result)
            await asyncio.sleep(result.retry_after)
        return result

    def _bind(self, backend: RateLimiterBackend) -> tuple[RateLimiterStrategy, Nowait | None]:
        """Remember the strategy of the backend that serves now, unless its `bind` is patched."""
        strategy, cls = backend.bind(self._config), type(backend)
        nowait, own = nowait_of(strategy), getattr(cls, "bind", None)
        patched = getattr(backend, "__dict__", ())
        if own is not None and "bind" not in patched:
            self._binding = (backend, cls, own, patched, strategy, nowait)
        return strategy, nowait

    def _undecided(self, error: Exception) -> RateLimitResult:
        """Allow what could not be decided, if that is asked for."""
        if isinstance(error, GrelmicroError) or not self._config.fail_open:
            self._failed(error, "decide")
        if not self._is_away and monotonic() >= self._silent_until:
            self._is_away, self._silent_until = True, monotonic() + _SILENCE
            _log.warning(
                "the limiter %r lets everything through: its backend failed: %s: %s",
                *(self._name, type(error).__name__, error),
            )
        return RateLimitResult(True, self._limit, 0, 0.0, 0.0)

    def _is_back(self) -> None:
        self._is_away = False
        _log.warning("the limiter %r limits again: its backend answered", self._name)

    def _failed(self, error: Exception, what: str) -> NoReturn:
        if isinstance(error, GrelmicroError):
            raise error
        raise ResilienceError(
            f"the limiter {self._name!r} could not {what}: {type(error).__name__}: {error}"
        ) from error

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._name!r}, {self._config!r})"
