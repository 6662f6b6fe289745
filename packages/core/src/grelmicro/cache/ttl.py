"""`TTLCache`: values with a time to live, on any backend."""

import asyncio
import inspect
import os
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Generic

from grelmicro._threads import run_here, run_on
from grelmicro.cache._backends import (
    backend_source,
    cache_errors,
    check_ttl,
    offers,
    offers_prefix,
)
from grelmicro.cache._codec import Codec
from grelmicro.cache._contract import CacheBackend, CacheInfo, CacheSerializer
from grelmicro.cache._envelope import VERSION_SIZE
from grelmicro.cache._flights import TaskFlights, ThreadFlights
from grelmicro.cache._loads import Load, Loads
from grelmicro.cache._names import MARK, check_key, key_prefix, tag_prefix, unnamed
from grelmicro.cache._reader import ASK, MISS, Counters, in_process, make_reader, view_of
from grelmicro.cache._recency import Recency
from grelmicro.errors import BackendNotOpenError, CacheError, CacheSettingsValidationError

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    from grelmicro.cache._component import Cache

    T = TypeVar("T", default=Any)
else:
    from typing import TypeVar

    T = TypeVar("T")

R = TypeVar("R")

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
        self._maxsize = _checked_maxsize(maxsize)
        self._ttl = check_ttl(ttl)
        self._tag_ttl = max(_SHORTEST_TAG_TTL, self._ttl)
        self._name = _checked_name(name)
        self._prefix = key_prefix(name)
        self._backend = backend_source(backend)
        self._counters = Counters()
        self._codec = Codec(serializer, self._counters)
        self._recency = Recency(maxsize) if maxsize else None
        self._loads = Loads()
        self._flights = TaskFlights(self._loads)
        self._thread_flights = ThreadFlights(self._loads)
        self._ambient: tuple[Any, Callable[[str], Any]] | None = None
        fixed = backend is not None and self._backend() is backend
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
            value = await self._fetch(key)
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
        await self._loads.supersede([full])
        await self._put(full, data, seconds)

    async def delete(self, key: str) -> None:
        """Delete a key; nothing happens when it is absent.

        A load of that key that is in flight in this process will not bring the old value back.

        Raises:
            CacheError: The backend failed; it may have deleted the key all the same.
        """
        full = self._full(key)
        await self._loads.supersede([full])
        self._forget(full)
        with cache_errors:
            await self._backend().delete(key=full)

    async def clear(self) -> None:
        """Remove this cache's entries; a cache without a name removes all of its backend's.

        Raises:
            CacheError: The backend failed, or cannot remove a part of what it has.
        """
        await self._loads.supersede()
        if self._recency is not None:
            self._recency.clear()
        backend = self._backend()
        if self._prefix and not offers_prefix(backend):
            raise CacheError(f"{type(backend).__name__}.clear() takes no prefix= to clear a part")
        with cache_errors:
            await (backend.clear(prefix=self._prefix) if self._prefix else backend.clear())

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
        found = await self._backend_get_many(list(wanted))
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
        backend = self._backend()
        if not offers(backend, "set_many"):
            for full, data in entries.items():
                await self._put(full, data, seconds)
            return
        for full in entries:
            await self._make_room(backend, full, seconds)
        with cache_errors:
            await backend.set_many(entries=entries, ttl=seconds)

    async def delete_many(self, keys: Iterable[str]) -> None:
        """Delete several keys, in one round trip where the backend can.

        Raises:
            CacheError: The backend failed; some of the keys may be gone.
        """
        fulls = [self._full(key) for key in keys]
        await self._loads.supersede(fulls)
        for full in fulls:
            self._forget(full)
        backend = self._backend()
        with cache_errors:
            if offers(backend, "delete_many"):
                await backend.delete_many(keys=fulls)
            else:
                for full in fulls:
                    await backend.delete(key=full)

    async def touch(self, key: str, ttl: float | None = None) -> bool:
        """Let an entry live for `ttl` seconds from now; False when there is none.

        Raises:
            ValueError: `ttl` cannot be used.
            CacheError: The backend failed.
        """
        full, seconds, backend = self._full(key), self._seconds(ttl), self._backend()
        with cache_errors:
            if offers(backend, "touch"):
                touched: bool = await backend.touch(key=full, ttl=seconds)
            else:
                data = await backend.get(key=full)
                touched = data is not None
                if touched:
                    await backend.set(key=full, value=data, ttl=seconds)
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
        backend = self._backend()
        with cache_errors:
            for key, version in versions.items():
                await backend.set(key=key, value=version, ttl=self._tag_ttl)

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

    def _open_backend(self) -> tuple[Any, asyncio.AbstractEventLoop]:
        """The backend for a caller without a loop, and the loop it was opened on.

        Raises:
            BackendNotOpenError: It was never opened, or is closed.
        """
        backend = self._backend()
        loop = getattr(backend, "_loop", None)
        if loop is None:
            raise BackendNotOpenError(
                f"{type(backend).__name__} is not open, and a synchronous call needs the loop it "
                "was opened on: enter the app or the backend first"
            )
        return backend, loop

    def _run_from_thread(self, coroutine: Coroutine[Any, Any, R]) -> R:
        """Run one of this cache's coroutines for a caller without a loop."""
        backend, loop = self._open_backend()
        return run_here(coroutine) if in_process(backend) else run_on(loop, coroutine)

    async def _tag_versions(self, tags: Iterable[str]) -> tuple[bytes, ...]:
        """The versions that `tags` have now."""
        keys = [tag_prefix(self._name) + check_key(tag, "tag") for tag in tags]
        found = await self._backend_get_many(keys)
        return tuple(_version(found.get(key, b"")) for key in keys)

    async def _fetch_with_ttl(self, full: str) -> tuple[bytes, float] | None:
        """Get an entry's bytes, and the seconds it will live."""
        backend = self._backend()
        if not offers(backend, "get_with_ttl"):
            raise TypeError(
                f"{type(backend).__name__} has no get_with_ttl, which early= and stale_ttl= need"
            )
        with cache_errors:
            entry: tuple[bytes, float] | None = await backend.get_with_ttl(key=full)
        return entry

    def _read_ambient(self, key: str) -> Any:
        """Read from the backend that serves now."""
        backend = self._backend()
        ambient = self._ambient
        if ambient is None or ambient[0] is not backend:
            ambient = self._ambient = (backend, self._make_reader(backend))
        return ambient[1](key)

    async def _fetch(self, key: str) -> Any:
        """Look a key up by asking the backend: a value or MISS."""
        full = self._full(key)
        with cache_errors:
            data = await self._backend().get(key=full)
        return self._counted(full, data)

    async def _peek(self, full: str) -> Any:
        """Look once more, without counting: a value or MISS."""
        with cache_errors:
            data = await self._backend().get(key=full)
        return MISS if data is None else self._codec.decode(data)

    async def _store(self, load: Load, data: bytes, ttl: float) -> None:
        """Store what a load brought, unless a deletion has won over it."""
        with self._loads.storing(load) as wins:
            if wins:
                await self._put(load.key, data, ttl)

    async def _put(self, full: str, data: bytes, ttl: float) -> None:
        backend = self._backend()
        await self._make_room(backend, full, ttl)
        with cache_errors:
            await backend.set(key=full, value=data, ttl=ttl)

    async def _make_room(self, backend: CacheBackend, full: str, ttl: float) -> None:
        if self._recency is None:
            return
        victims = self._recency.reserve(full, ttl)
        while victims:
            try:
                with cache_errors:
                    await backend.delete(key=victims[-1])
            except BaseException:
                for victim in victims:
                    self._recency.restore(victim, self._ttl)
                raise
            victims.pop()
            self._counters.evictions += 1

    async def _backend_get_many(self, fulls: list[str]) -> Mapping[str, bytes]:
        backend = self._backend()
        with cache_errors:
            if offers(backend, "get_many"):
                found: Mapping[str, bytes] = await backend.get_many(keys=fulls)
                return found
            values = {full: await backend.get(key=full) for full in fulls}
        return {full: data for full, data in values.items() if data is not None}

    def _full(self, key: str) -> str:
        return self._prefix + check_key(key) if self._prefix else unnamed(check_key(key))

    def _seconds(self, ttl: float | None) -> float:
        return self._ttl if ttl is None else check_ttl(ttl)

    def _counted(self, full: str, data: bytes | None) -> Any:
        value = MISS if data is None else self._codec.decode(data)
        self._count(full, hit=value is not MISS)
        return value

    def _count(self, full: str, *, hit: bool) -> None:
        if hit:
            self._counters.hits += 1
        else:
            self._counters.misses += 1
        if self._recency is not None:
            (self._recency.used if hit else self._recency.forget)(full)

    def _forget(self, full: str) -> None:
        if self._recency is not None:
            self._recency.forget(full)

    def _make_reader(self, backend: Any) -> Callable[[str], Any]:
        return make_reader(view_of(backend), self._prefix, self._counters, self._recency)

    def _currsize(self) -> int:
        if self._recency is not None:
            return self._recency.count()
        try:
            backend = self._backend()
        except LookupError:  # no app is open, or it has no cache
            return 0
        if not offers(backend, "count"):
            return 0
        return _count_entries(backend.count, self._prefix)

    def __repr__(self) -> str:
        return f"TTLCache(maxsize={self._maxsize}, ttl={self._ttl}, name={self._name!r})"


def _count_entries(count: Callable[..., int], prefix: str) -> int:
    if prefix:
        return count(prefix=prefix)
    return count() - count(prefix=MARK) + count(prefix=unnamed(MARK).removesuffix(MARK))


def _version(data: bytes) -> bytes:
    return data[:VERSION_SIZE].ljust(VERSION_SIZE, b"\0")


def _checked_maxsize(maxsize: object) -> int:
    if isinstance(maxsize, bool) or not isinstance(maxsize, int) or maxsize < 0:
        raise CacheSettingsValidationError("maxsize: expected 0 (no limit) or a positive number")
    return maxsize


def _checked_name(name: str | None) -> str | None:
    if name == "":
        raise CacheSettingsValidationError("name: expected a non-empty string")
    try:
        return name if name is None else check_key(name, "name")
    except (TypeError, ValueError) as error:
        raise CacheSettingsValidationError(str(error)) from None
