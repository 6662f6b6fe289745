"""What a cache backend and a serializer promise."""

import asyncio
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self, TypeVar

__all__ = ["CacheBackend", "CacheInfo", "CacheSerializer"]

T = TypeVar("T")


class CacheBackend(Protocol):
    """A store of bytes under string keys, each with a time to live.

    Eviction, serialization and statistics are the business of `TTLCache`. A backend may offer more
    than this. What it offers is found by its methods, all of which take keywords:

    - `async get_many(keys) -> Mapping[str, bytes]`: what there is, in one round trip;
    - `async set_many(entries: Mapping[str, bytes], ttl)` and `async delete_many(keys)`;
    - `async get_with_ttl(key) -> tuple[bytes, float] | None`: the bytes and the seconds they will
      live by the backend's own clock, which `early=` and `stale_ttl=` need;
    - `async touch(key, ttl) -> bool`: a new time to live, False when there is no entry;
    - `async clear(prefix)`: only what begins with `prefix`, taken literally;
    - `get_nowait(key) -> bytes | None`: for backends in this process, whose coroutines then must
      never suspend. It is used while `get` is the adapter's own: a subclass or a patched instance
      that changes `get` is honoured.
    """

    _loop: asyncio.AbstractEventLoop | None
    """The loop it was opened on, for callers in threads; None while it is closed."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> bool | None: ...

    async def get(self, *, key: str) -> bytes | None:
        """Get the bytes under `key`; None when there are none, or they have expired."""
        ...

    async def set(self, *, key: str, value: bytes, ttl: float) -> None:
        """Store bytes for `ttl` seconds, in the place of what was there."""
        ...

    async def delete(self, *, key: str) -> None:
        """Delete a key; nothing happens when it is absent."""
        ...

    async def clear(self) -> None:
        """Remove every entry of this backend, and nothing else."""
        ...


class CacheSerializer(Protocol[T]):
    """Turns values into bytes and back; any object with these two methods will do."""

    def dumps(self, value: T) -> bytes:
        """Serialize a value."""
        ...

    def loads(self, data: bytes) -> T:
        """Make the value again, or raise: what cannot be read is a miss."""
        ...


@dataclass(frozen=True)
class CacheInfo:
    """A snapshot of a cache's statistics.

    Attributes:
        hits: Lookups that found a value.
        misses: Lookups that found none.
        maxsize: Most entries it keeps; 0 means that there is no limit.
        currsize: Entries it keeps now. A cache with `maxsize` counts the entries it stored; one
            without counts those in the memory of this process, and 0 on a server, whose entries it
            does not follow.
        evictions: Entries that made room for others.
    """

    hits: int
    misses: int
    maxsize: int
    currsize: int
    evictions: int
