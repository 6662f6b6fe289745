"""The provider of everything that lives in this process."""

from typing import Any

from grelmicro.cache.memory import MemoryCacheAdapter
from grelmicro.providers._provider import Provider
from grelmicro.resilience.memory import MemoryCircuitBreakerAdapter, MemoryRateLimiterAdapter
from grelmicro.sync.memory import MemorySyncAdapter

__all__ = ["MemoryProvider"]


class MemoryProvider(Provider):
    """Backends in the memory of this process: no server, nothing shared, gone when it ends.

    Args:
        url: `memory://` or nothing; it is here so that a URL from the environment will do.

    Raises:
        ValueError: `url` has another scheme.
    """

    short_name = "memory"

    def __init__(self, url: str = "memory://") -> None:
        if url.partition("://")[0].partition("+")[0].lower() != "memory":
            raise ValueError("url: MemoryProvider takes memory://, and no other scheme")

    @property
    def url(self) -> str:
        """`memory://`."""
        return "memory://"

    async def ping(self) -> float:
        """Zero: there is no way to go."""
        return 0.0

    def sync(self, **kwargs: Any) -> MemorySyncAdapter:
        """Make locks of its own: two of them share nothing."""
        return MemorySyncAdapter(**kwargs)

    def cache(self, **kwargs: Any) -> MemoryCacheAdapter:
        """Make a cache of its own: two of them share nothing."""
        return MemoryCacheAdapter(**kwargs)

    def ratelimiter(self, **kwargs: Any) -> MemoryRateLimiterAdapter:
        """Make limits of its own: two of them share nothing."""
        return MemoryRateLimiterAdapter(**kwargs)

    def breaker(self, **kwargs: Any) -> MemoryCircuitBreakerAdapter:
        """Make circuit breakers of their own: two of them share nothing."""
        return MemoryCircuitBreakerAdapter(**kwargs)
