"""`TTLCache`: values with a time to live, on any backend."""

import inspect
import os
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Generic

from grelmicro._sources import backend_source
from grelmicro.cache._backing import Backing, failure_of
from grelmicro.cache._checks import check_maxsize, check_name, check_ttl
from grelmicro.cache._codec import Codec
from grelmicro.cache._contract import CacheBackend, CacheInfo, CacheSerializer
from grelmicro.cache._envelope import VERSION_SIZE
from grelmicro.cache._flights import TaskFlights, ThreadFlights
from grelmicro.cache._loads import Load, Loads
from grelmicro.cache._names import MARK, check_key, key_prefix, namer, tag_prefix, unnamed
from grelmicro.cache._reader import ASK, MISS, Counters, make_reader, view_of
from grelmicro.cache._recency import Recency
from grelmicro.errors import GrelmicroError

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    from grelmicro.cache._component import Cache

    T = TypeVar("T", default=Any)
else:
    from typing import TypeVar

    T = TypeVar("T")

__all__ = ["TTLCache"]

_SHORTEST_TAG_TTL = 86_400.0
"""Seconds that an invalidated tag is remembered at least; never less than its entries live."""


class TTLCache(Generic[T]):
    """A cache whose entries live for a time, and, with `maxsize`, make room for others.

    Storage is the backend's business; eviction, serialization and statistics are this object's.
    `maxsize` and the statistics are those of this object in this process.

    Keys are strings of at most 4,096 characters without control characters. Caches with different
    names share a backend without seeing each other's keys; those without a name share one space.

    Args:
        maxsize: Most entries; 0 for no limit. The least recently used one makes room.
        ttl: Seconds that an entry lives, from 0.001.
        backend: An adapter, a `Cache` component, or the name of one in the open app; by default
            the app's default cache, found anew for every call.
        serializer: Makes bytes of values; without one, values are bytes.
        name: Keeps this cache's keys apart from other caches'.

    Raises:
        ValueError: `maxsize` is negative, `ttl` is not positive, finite and at least 1 ms, or
            `name` is empty.
        TypeError: `backend` is none of the above.
    """

    def __init__(
        self,
        maxsize: int = 0,
        ttl: float = 60,
        *,
        backend: "CacheBackend | Cache | str | None" = None,
        serializer: CacheSerializer[T] | None = None,
        name: str | None = None,
    ) -> None:
        self._maxsize = check_maxsize(maxsize)
        self._ttl = check_ttl(ttl)
        self._tag_ttl = max(_SHORTEST_TAG_TTL, self._ttl)
        self._name = check_name(name)
        self._prefix = key_prefix(name)
        self._full = namer(self._prefix)
        find = backend_source("cache", backend)
        self._backing = Backing(find)
        self._counters = Counters()
        self._codec = Codec(serializer, self._counters)
        self._recency = Recency(maxsize) if maxsize else None
        self._loads = Loads()
        self._flights = TaskFlights(self._loads)
        self._thread_flights = ThreadFlights(self._loads)
        self._ambient: tuple[Any, Callable[[str], Any]] | None = None
        fixed = backend is not None and not isinstance(backend, str) and find() is backend
        self._view = view_of(backend) if fixed else None
        """Where a backend that never changes can be looked into."""
        self._read = self._make_reader(backend) if fixed else self._read_ambient
        """Looks a key up at once, if the backend lives in this process: a value, MISS or ASK."""

    @property
    def ttl(self) -> float:
        """Seconds that an entry lives by default."""
        return self._ttl

    async def get(self, key: str, default: T | None = None) -> T | None:
        """Get a value; `default` when it is missing or has expired.

        Raises:
            CacheError: The backend failed.
        """
        value = self._read(key)
        if value is ASK:
            full = self._full(key)
            try:  # as `Backing.get` does, without another frame on the way
                value = self._counted(full, await self._backing.find().get(key=full))
            except GrelmicroError:
                raise
            except Exception as error:
                raise failure_of(error) from error
        return default if value is MISS else value

    async def set(self, key: str, value: T, ttl: float | None = None) -> None:
        """Store a value, for the cache's `ttl` or one of its own.

        A load of that key that is in flight in this process will not overwrite it.

        Raises:
            ValueError: `ttl` or the key cannot be used.
            TypeError: The value is not bytes and there is no serializer.
            CacheError: The backend failed; it may have stored the value all the same.
        """
        full, data = self._full(key), self._codec.encode(value)
        seconds = self._seconds(ttl)
        if self._loads.in_flight:
            await self._loads.supersede([full])
        if self._recency is not None:
            await self._make_room(full, seconds)
        await self._backing.set(full, data, seconds)
        if self._loads.in_flight:
            self._loads.outdate([full])

    async def delete(self, key: str) -> None:
        """Delete a key; nothing happens when it is absent.

        A load of that key that is in flight in this process will not bring the old value back.

        Raises:
            CacheError: The backend failed; it may have deleted the key all the same.
        """
        full = self._full(key)
        await self._loads.supersede([full])
        with self._dropping([full]):
            await self._backing.delete(full)
        self._loads.outdate([full])

    async def clear(self) -> None:
        """Remove this cache's entries; a cache without a name removes all of its backend's.

        Raises:
            CacheError: The backend failed, or cannot remove a part of what it has.
        """
        await self._loads.supersede()
        with self._dropping():
            await self._backing.clear(self._prefix)
        self._loads.outdate()

    def cache_info(self) -> CacheInfo:
        """A snapshot of the statistics."""
        counters = self._counters
        return CacheInfo(
            counters.hits, counters.misses, self._maxsize, self._currsize(), counters.evictions
        )

    async def get_many(self, keys: Iterable[str]) -> dict[str, T]:
        """Get several values, in one round trip where the backend can; only what there is.

        Raises:
            CacheError: The backend failed.
        """
        wanted = {self._full(key): key for key in keys}
        found = await self._backing.get_many(list(wanted))
        values = {key: self._counted(full, found.get(full)) for full, key in wanted.items()}
        return {key: value for key, value in values.items() if value is not MISS}

    async def set_many(self, values: Mapping[str, T], ttl: float | None = None) -> None:
        """Store several values, in one round trip where the backend can.

        Raises:
            ValueError: `ttl` or a key cannot be used.
            TypeError: A value is not bytes and there is no serializer.
            CacheError: The backend failed; some of the values may be stored.
        """
        entries = {self._full(key): self._codec.encode(value) for key, value in values.items()}
        seconds = self._seconds(ttl)
        await self._loads.supersede(entries)
        for full in entries:
            await self._make_room(full, seconds)
        if self._recency is not None:  # more than `maxsize` entries evict each other
            entries = {full: data for full, data in entries.items() if full in self._recency}
        await self._backing.set_many(entries, seconds)
        self._loads.outdate(entries)

    async def delete_many(self, keys: Iterable[str]) -> None:
        """Delete several keys, in one round trip where the backend can.

        Raises:
            CacheError: The backend failed; some of the keys may be gone.
        """
        fulls = [self._full(key) for key in keys]
        await self._loads.supersede(fulls)
        with self._dropping(fulls):
            await self._backing.delete_many(fulls)
        self._loads.outdate(fulls)

    async def touch(self, key: str, ttl: float | None = None) -> bool:
        """Let an entry live for `ttl` seconds from now; False when there is none.

        Raises:
            ValueError: `ttl` cannot be used.
            CacheError: The backend failed.
        """
        full, seconds = self._full(key), self._seconds(ttl)
        touched = await self._backing.touch(full, seconds, self._loads)
        if touched and self._recency is not None:
            self._recency.prolong(full, seconds)
        return touched

    async def get_or_set(
        self, key: str, factory: Callable[[], Awaitable[T] | T], ttl: float | None = None
    ) -> T:
        """Get a value, or make and store it: once for all tasks that ask for it meanwhile.

        Raises:
            ValueError: `ttl` or the key cannot be used.
            TypeError: The value is not bytes and there is no serializer.
            CacheError: The backend failed.
        """
        seconds = self._seconds(ttl)
        value = self._read(key)
        if value is ASK:
            value = await self._fetch(key)
        if value is not MISS:
            found: T = value
            return found

        async def load(load: Load) -> T:
            again = await self._peek(load.key)
            if again is not MISS:
                found: T = again
                return found
            made = factory()
            value: T = await made if inspect.isawaitable(made) else made
            await self._store(load, self._codec.encode(value), seconds)
            return value

        return await self._flights.fly(self._full(key), load)

    async def invalidate_tags(self, *tags: str) -> None:
        """Make every entry that was cached under one of `tags` a miss, in the whole fleet.

        Raises:
            CacheError: The backend failed; some of the tags may be invalid.
        """
        versions = {tag_prefix(self._name) + check_key(tag, "tag"): os.urandom(8) for tag in tags}
        await self._loads.supersede()
        await self._backing.set_many(versions, self._tag_ttl)
        self._loads.outdate()

    # What `cached` is built on, besides the above.

    @property
    def _is_bare(self) -> bool:
        """Whether an entry's bytes are its value, and nobody asks when it was used."""
        return self._recency is None and self._counters.decode is None

    def _admit(self, lifetime: float, *, envelopes: bool) -> None:
        """Prepare for a function whose entries live for up to `lifetime` seconds."""
        self._tag_ttl = max(self._tag_ttl, lifetime)
        if envelopes:
            self._codec.use_envelopes()

    async def _tag_versions(self, tags: Iterable[str]) -> tuple[bytes, ...]:
        """The versions that `tags` have now."""
        keys = [tag_prefix(self._name) + check_key(tag, "tag") for tag in tags]
        found = await self._backing.get_many(keys)
        return tuple(_version(found.get(key, b"")) for key in keys)

    def _read_ambient(self, key: str) -> Any:
        """Read from the backend that serves now."""
        backend = self._backing.find()
        ambient = self._ambient
        if ambient is None or ambient[0] is not backend:
            ambient = self._ambient = (backend, self._make_reader(backend))
        return ambient[1](key)

    async def _fetch(self, key: str) -> Any:
        """Look a key up by asking the backend: a value or MISS."""
        full = self._full(key)
        return self._counted(full, await self._backing.get(full))

    async def _peek(self, full: str) -> Any:
        """Look once more, without counting: a value or MISS."""
        data = await self._backing.get(full)
        return MISS if data is None else self._codec.decode(data)

    async def _store(self, load: Load, data: bytes, ttl: float) -> None:
        """Store what a load brought, unless a deletion has won over it."""
        with self._loads.storing(load) as wins:
            if wins:
                await self._put(load.key, data, ttl)

    async def _put(self, full: str, data: bytes, ttl: float) -> None:
        await self._make_room(full, ttl)
        await self._backing.set(full, data, ttl)

    async def _make_room(self, full: str, ttl: float) -> None:
        if self._recency is None:
            return
        victims = self._recency.reserve(full, ttl)
        while victims:
            try:
                await self._backing.delete(victims[-1])
            except BaseException:
                self._recency.forget(full)
                for victim in victims:
                    self._recency.restore(victim, self._ttl)
                raise
            victims.pop()
            self._counters.evictions += 1

    def _seconds(self, ttl: float | None) -> float:
        return self._ttl if ttl is None else check_ttl(ttl)

    def _counted(self, full: str, data: bytes | None) -> Any:
        counters = self._counters
        decode = counters.decode
        value: Any = MISS if data is None else data if decode is None else decode(data)
        if value is MISS:
            counters.misses += 1
        else:
            counters.hits += 1
        if self._recency is not None:
            self._note(full, hit=value is not MISS)
        return value

    def _count(self, full: str, *, hit: bool) -> None:
        if hit:
            self._counters.hits += 1
        else:
            self._counters.misses += 1
        self._note(full, hit=hit)

    def _note(self, full: str, *, hit: bool) -> None:
        if self._recency is not None:
            (self._recency.used if hit else self._recency.missed)(full)

    def _dropping(self, fulls: Iterable[str] | None = None) -> AbstractContextManager[None]:
        return nullcontext() if self._recency is None else self._recency.dropping(fulls)

    def _make_reader(self, backend: Any) -> Callable[[str], Any]:
        return make_reader(view_of(backend), self._prefix, self._counters, self._recency)

    def _currsize(self) -> int:
        if self._recency is not None:
            return self._recency.count()
        count = self._backing.count
        if self._prefix:
            return count(self._prefix)
        return count("") - count(MARK) + count(unnamed(MARK)[:-1])

    def __repr__(self) -> str:
        return f"TTLCache(maxsize={self._maxsize}, ttl={self._ttl}, name={self._name!r})"


def _version(data: bytes) -> bytes:
    return data[:VERSION_SIZE].ljust(VERSION_SIZE, b"\0")
