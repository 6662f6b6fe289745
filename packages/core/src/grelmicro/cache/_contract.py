"""What a cache backend and a serializer promise."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self, TypeVar, runtime_checkable

__all__ = [
    "CacheBackend",
    "CacheInfo",
    "CacheSerializer",
    "Clears",
    "DeletesMany",
    "GetsMany",
    "GetsWithTtl",
    "SetsMany",
    "Touches",
]

T = TypeVar("T")


class CacheBackend(Protocol):
    """A store of bytes under string keys, each with a time to live.

    Eviction, serialization and statistics are the business of `TTLCache`. A backend may offer more
    than this; what it offers is found by its methods: `get_many`, `set_many`, `delete_many`,
    `get_with_ttl`, `touch`, `clear(prefix=)`, and, when it lives in this process, `get_nowait`.
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


class GetsMany(Protocol):
    """Optional: several keys in one round trip."""

    async def get_many(self, *, keys: Sequence[str]) -> Mapping[str, bytes]:
        """Get what there is; an absent key is absent from the result."""
        ...


class SetsMany(Protocol):
    """Optional: several entries in one round trip."""

    async def set_many(self, *, entries: Mapping[str, bytes], ttl: float) -> None:
        """Store every entry for `ttl` seconds."""
        ...


class DeletesMany(Protocol):
    """Optional: several deletions in one round trip."""

    async def delete_many(self, *, keys: Sequence[str]) -> None:
        """Delete every key that is there."""
        ...


@runtime_checkable
class GetsWithTtl(Protocol):
    """Optional: an entry together with the time it has left, by the backend's own clock."""

    async def get_with_ttl(self, *, key: str) -> tuple[bytes, float] | None:
        """Get the bytes and the seconds they will live; None when there are none."""
        ...


class Touches(Protocol):
    """Optional: a new time to live for an entry that is there."""

    async def touch(self, *, key: str, ttl: float) -> bool:
        """Let the entry live `ttl` seconds from now; False when there is none."""
        ...


class Clears(Protocol):
    """Optional: clearing a part."""

    async def clear(self, *, prefix: str = "") -> None:
        """Remove the entries whose key begins with `prefix`, taken literally."""
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
