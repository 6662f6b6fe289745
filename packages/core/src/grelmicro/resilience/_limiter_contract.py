"""What a rate limiter's backend promises."""

from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

from grelmicro.resilience._contract import _ResilienceBackend
from grelmicro.resilience._limits import RateLimitConfig
from grelmicro.resilience._result import RateLimitResult

__all__ = ["Nowait", "RateLimiterBackend", "RateLimiterStrategy", "nowait_of"]


Nowait: TypeAlias = Callable[[str, int], RateLimitResult | None]
"""`acquire_nowait(key, cost)`."""


class RateLimiterStrategy(Protocol):
    """Decides for every key of the limiters with one configuration, by the backend's own clock."""

    # Optional, for backends in this process: a plain `acquire_nowait(key, cost)`, which answers as
    # `acquire` would, or None where only that can. It is used while `acquire` is the method that
    # `_shipped_acquire` is as well, so that a subclass that changes `acquire` is honoured.

    async def acquire(self, *, key: str, cost: int) -> RateLimitResult:
        """Take `cost` permits if they are there; else take nothing."""
        ...

    async def peek(self, *, key: str, cost: int) -> RateLimitResult:
        """Tell what `acquire` would answer, but for what is `remaining`; take nothing."""
        ...

    async def reset(self, *, key: str) -> None:
        """Give the key its full quota."""
        ...


class RateLimiterBackend(_ResilienceBackend, Protocol):
    """Makes the strategies that limiters decide with."""

    def bind(self, config: RateLimitConfig) -> RateLimiterStrategy:
        """Make the strategy for a configuration; no I/O.

        Any number of times: strategies of equal configurations have to share what they know.
        """
        ...


def nowait_of(strategy: Any) -> Nowait | None:
    """The `acquire_nowait` of a strategy, if it has one that stands for its `acquire`."""
    is_shipped = strategy.acquire == getattr(strategy, "_shipped_acquire", None)
    nowait: Nowait | None = getattr(strategy, "acquire_nowait", None)
    return nowait if is_shipped else None
