"""The cache component."""

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, Unpack

from grelmicro._component import Component
from grelmicro.cache._cached import CachedOptions, cached
from grelmicro.cache._contract import CacheBackend, CacheSerializer
from grelmicro.cache.ttl import TTLCache

__all__ = ["Cache"]

P = ParamSpec("P")
R = TypeVar("R")


class Cache(Component[CacheBackend]):
    """Caching served by an app: `Cache(provider)` or `Cache(adapter)`."""

    kind = "cache"

    def ttl(
        self,
        *,
        ttl: float = 60,
        maxsize: int = 0,
        serializer: CacheSerializer[Any] | None = None,
        name: str | None = None,
    ) -> TTLCache[Any]:
        """Make a cache on this component's backend; see `TTLCache`."""
        return TTLCache(maxsize, ttl, backend=self, serializer=serializer, name=name)

    def cached(
        self,
        *,
        ttl: float = 60,
        maxsize: int = 0,
        serializer: CacheSerializer[Any] | None = None,
        **options: Unpack[CachedOptions],
    ) -> Callable[[Callable[P, R]], Callable[P, R]]:
        """Cache a function's results on this component's backend; see the function `cached`."""
        return cached(self.ttl(ttl=ttl, maxsize=maxsize, serializer=serializer), **options)
