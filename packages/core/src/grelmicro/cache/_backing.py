"""What a cache asks of its backend, whatever that backend offers.

Optional methods are used where they are there and made up for where not, and whatever a backend
raises becomes a CacheError with that as its cause.
"""

import asyncio
import inspect
from collections.abc import Callable, Coroutine, Mapping, Sequence
from types import TracebackType
from typing import Any, TypeVar

from grelmicro._threads import loop_of, run_here, run_on
from grelmicro.cache._loads import Loads
from grelmicro.cache._reader import in_process
from grelmicro.errors import CacheError, GrelmicroError

__all__ = ["Backing", "failure_of"]

R = TypeVar("R")


def failure_of(error: Exception) -> CacheError:
    """What a backend's failure is to a user of the cache."""
    return CacheError(f"the cache backend failed: {type(error).__name__}: {error}")


class _CacheErrors:
    """Turns whatever a backend raises into a CacheError that it causes."""

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if isinstance(exc, Exception) and not isinstance(exc, GrelmicroError):
            raise failure_of(exc) from exc


_errors = _CacheErrors()


class Backing:
    """The backend of one cache; `find` finds it for every call."""

    def __init__(self, find: Callable[[], Any]) -> None:
        self.find = find

    async def get(self, key: str) -> bytes | None:
        """Get the bytes under a key."""
        try:  # nothing is cheaper, as long as nothing fails
            data: bytes | None = await self.find().get(key=key)
        except GrelmicroError:
            raise
        except Exception as error:
            raise failure_of(error) from error
        return data

    async def get_with_ttl(self, key: str) -> tuple[bytes, float] | None:
        """Get the bytes under a key, and the seconds they will live.

        Raises:
            TypeError: The backend cannot tell.
        """
        backend = self.find()
        if not _offers(backend, "get_with_ttl"):
            raise TypeError(
                f"{type(backend).__name__} has no get_with_ttl, which early= and stale_ttl= need"
            )
        with _errors:
            entry: tuple[bytes, float] | None = await backend.get_with_ttl(key=key)
            return entry

    async def get_many(self, keys: Sequence[str]) -> Mapping[str, bytes]:
        """Get what there is under several keys."""
        backend = self.find()
        with _errors:
            if _offers(backend, "get_many"):
                found: Mapping[str, bytes] = await backend.get_many(keys=keys)
                return found
            values = {key: await backend.get(key=key) for key in keys}
        return {key: data for key, data in values.items() if data is not None}

    async def set(self, key: str, data: bytes, ttl: float) -> None:
        """Store bytes."""
        try:
            await self.find().set(key=key, value=data, ttl=ttl)
        except GrelmicroError:
            raise
        except Exception as error:
            raise failure_of(error) from error

    async def set_many(self, entries: Mapping[str, bytes], ttl: float) -> None:
        """Store several entries."""
        backend = self.find()
        with _errors:
            if _offers(backend, "set_many"):
                await backend.set_many(entries=entries, ttl=ttl)
            else:
                for key, data in entries.items():
                    await backend.set(key=key, value=data, ttl=ttl)

    async def delete(self, key: str) -> None:
        """Delete a key."""
        with _errors:
            await self.find().delete(key=key)

    async def delete_many(self, keys: Sequence[str]) -> None:
        """Delete several keys."""
        backend = self.find()
        with _errors:
            if _offers(backend, "delete_many"):
                await backend.delete_many(keys=keys)
            else:
                for key in keys:
                    await backend.delete(key=key)

    async def touch(self, key: str, ttl: float, loads: Loads) -> bool:
        """Let an entry live for another time; False when there is none."""
        backend = self.find()
        if not _offers(backend, "touch"):
            return await self._store_again(key, ttl, loads)
        with _errors:
            touched: bool = await backend.touch(key=key, ttl=ttl)
            return touched

    async def _store_again(self, key: str, ttl: float, loads: Loads) -> bool:
        """Touch an entry by storing it again: a load, over which a deletion wins."""
        load = loads.begin(key)
        try:
            data = await self.get(key)
            with loads.storing(load) as wins:
                touched = wins and data is not None
                if touched and data is not None:
                    await self.set(key, data, ttl)
            return touched
        finally:
            loads.end(load)

    async def clear(self, prefix: str) -> None:
        """Remove what begins with `prefix`; everything where that is empty.

        Raises:
            CacheError: The backend failed, or cannot remove a part of what it has.
        """
        backend = self.find()
        if prefix and not _clears_parts(backend):
            raise CacheError(f"{type(backend).__name__}.clear() takes no prefix= to clear a part")
        with _errors:
            await (backend.clear(prefix=prefix) if prefix else backend.clear())

    def count(self, prefix: str) -> int:
        """Count the entries in this process's memory; 0 for a server, or where nothing is open."""
        try:
            backend = self.find()
        except LookupError:  # no app is open, or it has no cache
            return 0
        return int(backend.count(prefix=prefix)) if _offers(backend, "count") else 0

    def check_open(self) -> tuple[Any, asyncio.AbstractEventLoop]:
        """The backend for a caller without a loop, and the loop it was opened on.

        Raises:
            BackendNotOpenError: It was never opened, or is closed.
        """
        backend = self.find()
        return backend, loop_of(backend)

    def run(self, coroutine: Coroutine[Any, Any, R]) -> R:
        """Run one of the cache's coroutines for a caller without a loop."""
        try:
            backend, loop = self.check_open()
        except BaseException:
            coroutine.close()
            raise
        return run_here(coroutine) if in_process(backend) else run_on(loop, coroutine)


def _offers(backend: Any, method: str) -> bool:
    """Whether the backend has an optional method."""
    return callable(getattr(backend, method, None))


def _clears_parts(backend: Any) -> bool:
    """Whether the backend's `clear` takes a prefix."""
    parameters = inspect.signature(backend.clear).parameters.values()
    return any(p.name == "prefix" or p.kind is p.VAR_KEYWORD for p in parameters)
