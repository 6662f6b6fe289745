"""Rate limiters for worker threads."""

from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from grelmicro._threads import loop_of, run_on
from grelmicro.resilience._result import RateLimitResult

if TYPE_CHECKING:
    from grelmicro.resilience._rate_limiter import RateLimiter

__all__ = ["ThreadRateLimiter"]

T = TypeVar("T")


class ThreadRateLimiter:
    """A `RateLimiter` for callers in worker threads: `limiter.from_thread.acquire(key=...)`.

    Every method makes one trip to the event loop that the backend was opened on, waits here for
    what comes of it, and raises what the limiter's own raises.

    Raises:
        BackendNotOpenError: From every method: the backend was never opened, or is closed.
        RuntimeError: From every method: this is the thread of an event loop, which would stop.
    """

    def __init__(self, limiter: "RateLimiter") -> None:
        self._limiter = limiter

    def acquire(self, *, key: str, cost: int = 1) -> RateLimitResult:
        """Take `cost` permits for `key`, if there are that many."""
        return self._run(self._limiter.acquire(key=key, cost=cost))

    def acquire_or_raise(self, *, key: str, cost: int = 1) -> RateLimitResult:
        """Take `cost` permits for `key`, or raise RateLimitExceededError."""
        return self._run(self._limiter.acquire_or_raise(key=key, cost=cost))

    def wait(self, *, key: str, cost: int = 1, timeout: float | None = None) -> RateLimitResult:
        """Take `cost` permits for `key` as soon as there are that many."""
        return self._run(self._limiter.wait(key=key, cost=cost, timeout=timeout))

    def peek(self, *, key: str, cost: int = 1) -> RateLimitResult:
        """Tell whether `acquire` would be allowed now, and what is left; take nothing."""
        return self._run(self._limiter.peek(key=key, cost=cost))

    def reset(self, *, key: str) -> None:
        """Give `key` its full quota."""
        self._run(self._limiter.reset(key=key))

    def _run(self, call: Coroutine[Any, Any, T]) -> T:
        try:
            loop = loop_of(self._limiter.backend)
        except BaseException:
            call.close()
            raise
        return run_on(loop, call)
