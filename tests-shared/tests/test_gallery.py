"""Backends that are broken on purpose: each breaks the clauses it is registered for, no other."""

import asyncio
import contextlib
import fnmatch
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from time import monotonic
from typing import Any, ClassVar, Self

import pytest

from grelmicro.cache.memory import MemoryCacheAdapter
from grelmicro.providers import Provider
from grelmicro.testing.conformance import Clause, Subject, clauses

CLAUSES = tuple(
    each
    for each in (*clauses("provider"), *clauses("cache"))
    if each.id.split(".")[1] not in ("fault", "processes", "model")
)
"""Those of locks, and these, have galleries of their own."""

Found = Callable[[Subject, Iterable[Clause]], set[str]]

_Entries = dict[str, tuple[bytes, float]]


class Store:
    """An honest backend that waits at every step, as one on a network does."""

    _loop: asyncio.AbstractEventLoop | None = None

    def __init__(self, entries: _Entries, prefix: str) -> None:
        self.entries = entries
        self.prefix = prefix

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._loop = None

    def _name(self, key: str) -> str:
        return self.prefix + key

    def _deadline(self, key: str, ttl: float) -> float:
        return monotonic() + ttl

    def _live(self, key: str) -> tuple[bytes, float] | None:
        entry = self.entries.get(self._name(key))
        return entry if entry and entry[1] > monotonic() else None

    async def get(self, *, key: str) -> bytes | None:
        await asyncio.sleep(0)
        entry = self._live(key)
        return entry[0] if entry else None

    async def set(self, *, key: str, value: bytes, ttl: float) -> None:
        await asyncio.sleep(0)
        self.entries[self._name(key)] = (value, self._deadline(key, ttl))

    async def delete(self, *, key: str) -> None:
        await asyncio.sleep(0)
        self.entries.pop(self._name(key), None)

    async def clear(self, *, prefix: str = "") -> None:
        await asyncio.sleep(0)
        for name in [name for name in self.entries if name.startswith(self._name(prefix))]:
            del self.entries[name]

    async def get_many(self, *, keys: Sequence[str]) -> Mapping[str, bytes]:
        await asyncio.sleep(0)
        entries = {key: self._live(key) for key in keys}
        return {key: entry[0] for key, entry in entries.items() if entry}

    async def set_many(self, *, entries: Mapping[str, bytes], ttl: float) -> None:
        for key, value in entries.items():
            await self.set(key=key, value=value, ttl=ttl)

    async def delete_many(self, *, keys: Sequence[str]) -> None:
        for key in keys:
            await self.delete(key=key)

    async def touch(self, *, key: str, ttl: float) -> bool:
        await asyncio.sleep(0)
        entry = self._live(key)
        if entry:
            self.entries[self._name(key)] = (entry[0], self._deadline(key, ttl))
        return entry is not None

    async def get_with_ttl(self, *, key: str) -> tuple[bytes, float] | None:
        await asyncio.sleep(0)
        entry = self._live(key)
        return (entry[0], entry[1] - monotonic()) if entry else None


class StoreProvider(Provider):
    """An honest provider; its subclasses say which adapter they make."""

    short_name = "store"
    adapter: ClassVar[Any] = Store

    def __init__(self, password: str = "") -> None:
        self._password = password
        self.entries: _Entries = {}

    @property
    def url(self) -> str:
        return "store://user:***@here"

    async def ping(self) -> float:
        return 0.001

    def cache(self, **options: Any) -> Any:
        return type(self).adapter(self.entries, options["prefix"])


def subject(made: type) -> Subject:
    """A subject of a provider, or of an adapter that an honest provider makes."""
    provider = made
    if not issubclass(made, Provider):
        provider = type("OneProvider", (StoreProvider,), {"short_name": "one", "adapter": made})
    return Subject(
        made.__name__,
        provider,
        options=lambda kind, space: {"prefix": f"{space}:"},
        guarded=provider,
    )


GALLERY: dict[type, frozenset[str]] = {}


def breaks(*ids: str) -> Callable[[type], type]:
    def register(made: type) -> type:
        GALLERY[made] = frozenset(ids)
        return made

    return register


# Values and keys.


@breaks("cache.set.empty_value", "cache.set.overwrites")
class ReadsEmptyAsMiss(Store):
    async def get(self, *, key: str) -> bytes | None:
        return await super().get(key=key) or None


@breaks("cache.get.missing", "cache.set.empty_key", "cache.set.expires",
        "cache.set.expires_in_time", "cache.set.one_millisecond", "cache.set.shortens",
        "cache.set_many.expires", "cache.delete.removes", "cache.delete.one",
        "cache.clear.removes_all", "cache.clear.spares_others", "cache.clear_prefix.removes",
        "cache.clear_prefix.literal", "cache.space.separate", "cache.delete_many.removes",
        "cache.touch.prolongs", "cache.touch.missing", "cache.get_many.missing",
        "cache.get_with_ttl.missing")  # fmt: skip
class ReadsMissAsEmpty(Store):
    async def get(self, *, key: str) -> bytes | None:
        return await super().get(key=key) or b""


@breaks("cache.set.returns_bytes")
class StripsValues(Store):
    async def set(self, *, key: str, value: bytes, ttl: float) -> None:
        await super().set(key=key, value=value.strip(), ttl=ttl)


@breaks("cache.set.returns_bytes")
class CutsLargeValues(Store):
    async def set(self, *, key: str, value: bytes, ttl: float) -> None:
        await super().set(key=key, value=value[:60_000], ttl=ttl)


@breaks("cache.set.overwrites", "cache.set.renews", "cache.set.shortens", "cache.set_many.stores",
        "cache.set_many.expires", "cache.get_with_ttl.tells", "cache.life.not_entered",
        "cache.life.reopens", "cache.tasks.keep_apart", "cache.set.returns_bytes")  # fmt: skip
class KeepsTheFirstValue(Store):
    async def set(self, *, key: str, value: bytes, ttl: float) -> None:
        if await self.get(key=key) is None:
            await super().set(key=key, value=value, ttl=ttl)


@breaks("cache.set.hard_keys", "cache.delete.one", "cache.get_many.finds")
class FoldsCase(Store):
    def _name(self, key: str) -> str:
        return self.prefix + key.lower()


@breaks("cache.set.hard_keys", "cache.delete.one", "cache.get_many.finds")
class CutsKeysAtNul(Store):
    def _name(self, key: str) -> str:
        return self.prefix + key.partition("\0")[0]


@breaks("cache.set.hard_keys", "cache.delete.one", "cache.get_many.finds")
class CutsLongKeys(Store):
    def _name(self, key: str) -> str:
        return self.prefix + key[:250]


@breaks("cache.set.empty_key", "cache.clear.removes_all", "cache.clear_prefix.removes")
class RefusesTheEmptyKey(Store):
    async def set(self, *, key: str, value: bytes, ttl: float) -> None:
        if not key:
            raise ValueError("no key")
        await super().set(key=key, value=value, ttl=ttl)


@breaks("cache.space.separate", "cache.clear.spares_others")
class ForgetsItsPrefix(Store):
    def _name(self, key: str) -> str:
        return key


# Time.


@breaks("cache.set.expires", "cache.set.expires_in_time", "cache.set.one_millisecond",
        "cache.set.shortens", "cache.set_many.expires", "cache.touch.prolongs",
        "cache.touch.missing", "cache.get_with_ttl.missing", "cache.get_with_ttl.tells",
        "cache.get_many.missing")  # fmt: skip
class IgnoresTtl(Store):
    def _deadline(self, key: str, ttl: float) -> float:
        return math.inf


@breaks("cache.set.expires_in_time")
class CountsWholeSeconds(Store):
    def _deadline(self, key: str, ttl: float) -> float:
        return monotonic() + math.ceil(ttl)


@breaks("cache.set.expires", "cache.set.lives_on", "cache.get_with_ttl.tells",
        "cache.touch.prolongs")  # fmt: skip
class TakesSecondsForMilliseconds(Store):
    async def touch(self, *, key: str, ttl: float) -> bool:
        await asyncio.sleep(0.001)
        return await super().touch(key=key, ttl=ttl)

    def _deadline(self, key: str, ttl: float) -> float:
        return monotonic() + ttl / 1000


@breaks("cache.set.renews", "cache.set.shortens", "cache.set_many.expires",
        "cache.get_with_ttl.tells")  # fmt: skip
class KeepsTheFirstDeadline(Store):
    async def set(self, *, key: str, value: bytes, ttl: float) -> None:
        entry = self._live(key)
        await super().set(key=key, value=value, ttl=ttl)
        if entry:
            self.entries[self._name(key)] = (value, entry[1])


@breaks("cache.set.shortens")
class KeepsTheLongestDeadline(Store):
    async def set(self, *, key: str, value: bytes, ttl: float) -> None:
        entry = self._live(key)
        await super().set(key=key, value=value, ttl=ttl)
        if entry and entry[1] - monotonic() > 200 and ttl < 100:
            self.entries[self._name(key)] = (value, entry[1])


@breaks("cache.set.centuries")
class OverflowsAfterCenturies(Store):
    def _deadline(self, key: str, ttl: float) -> float:
        return monotonic() + int.from_bytes(int(ttl * 1000).to_bytes(8, "big"), "big") / 1000


# Deletion.


@breaks("cache.delete.absent", "cache.delete_many.removes")
class FailsToDeleteTheAbsent(Store):
    async def delete(self, *, key: str) -> None:
        await asyncio.sleep(0)
        del self.entries[self._name(key)]


@breaks("cache.delete.one", "cache.delete_many.removes")
class DeletesByGlob(Store):
    async def delete(self, *, key: str) -> None:
        await asyncio.sleep(0)
        for name in fnmatch.filter(list(self.entries), self._name(key)):
            del self.entries[name]
        self.entries.pop(self._name(key), None)


@breaks("cache.clear.spares_others")
class ClearsTheWholeDatabase(Store):
    async def clear(self, *, prefix: str = "") -> None:
        await asyncio.sleep(0)
        if prefix:
            await super().clear(prefix=prefix)
        else:
            self.entries.clear()


@breaks("cache.clear.removes_all")
class ClearsOneBatch(Store):
    async def clear(self, *, prefix: str = "") -> None:
        await asyncio.sleep(0)
        for name in [name for name in self.entries if name.startswith(self._name(prefix))][:1000]:
            del self.entries[name]


@breaks("cache.clear_prefix.literal")
class ClearsByGlob(Store):
    async def clear(self, *, prefix: str = "") -> None:
        await asyncio.sleep(0)
        for name in fnmatch.filter(list(self.entries), self._name(prefix) + "*"):
            del self.entries[name]


@breaks("cache.clear_prefix.removes", "cache.clear_prefix.literal")
class ClearsEverythingForAPrefix(Store):
    async def clear(self, *, prefix: str = "") -> None:
        await super().clear()


# Options.


@breaks("cache.get_many.finds")
class LosesTheLastOfABatch(Store):
    async def get_many(self, *, keys: Sequence[str]) -> Mapping[str, bytes]:
        return await super().get_many(keys=[key for at, key in enumerate(keys) if at % 500 != 499])


@breaks("cache.get_many.missing")
class PutsNoneIntoGetMany(Store):
    async def get_many(self, *, keys: Sequence[str]) -> Mapping[str, bytes]:
        found: dict[str, Any] = {key: await self.get(key=key) for key in keys}
        return found


@breaks("cache.set_many.expires")
class SetsManyForEver(Store):
    async def set_many(self, *, entries: Mapping[str, bytes], ttl: float) -> None:
        await super().set_many(entries=entries, ttl=math.inf)


@breaks("cache.set_many.stores")
class SetsOneBatch(Store):
    async def set_many(self, *, entries: Mapping[str, bytes], ttl: float) -> None:
        await super().set_many(entries=dict([*entries.items()][:500]), ttl=ttl)


@breaks("cache.touch.missing")
class TouchesWhatIsNotThere(Store):
    async def touch(self, *, key: str, ttl: float) -> bool:
        if not await super().touch(key=key, ttl=ttl):
            await self.set(key=key, value=b"", ttl=ttl)
        return True


@breaks("cache.get_with_ttl.tells")
class TellsMilliseconds(Store):
    async def get_with_ttl(self, *, key: str) -> tuple[bytes, float] | None:
        entry = await super().get_with_ttl(key=key)
        return (entry[0], entry[1] * 1000) if entry else None


@breaks("cache.call.by_keyword", "cache.touch.prolongs", "cache.touch.missing",
        "cache.life.leaves_no_task", "cache.cancel.in_step", "cache.cancel.is_heard")  # fmt: skip
class NamesAParameterOtherwise(Store):
    async def _touch(self, *, name: str, ttl: float) -> bool:
        return await Store.touch(self, key=name, ttl=ttl)

    touch: Any = _touch


class Memory(MemoryCacheAdapter):
    """An honest backend in this process."""

    def __init__(self, entries: _Entries, prefix: str) -> None:
        super().__init__()


@breaks("cache.get_nowait.agrees")
class ReadsTheExpiredAtOnce(Memory):
    def get_nowait(self, *, key: str) -> bytes | None:
        entry = self.entries.get(key)
        return entry[0] if entry else None

    async def get(self, *, key: str) -> bytes | None:
        return super().get_nowait(key=key)


@breaks("cache.get_nowait.never_suspends")
class WaitsThoughInProcess(Memory):
    async def delete(self, *, key: str) -> None:
        await asyncio.sleep(0)
        await super().delete(key=key)


# Life, tasks and cancellation.


@breaks("cache.life.loop")
class ForgetsToNoteTheLoop(Store):
    async def __aenter__(self) -> Self:
        return self


@breaks("cache.life.loop")
class KeepsTheLoop(Store):
    async def __aexit__(self, *_: object) -> None:
        pass


@breaks("cache.life.not_entered")
class WorksOnlyEntered(Store):
    async def set(self, *, key: str, value: bytes, ttl: float) -> None:
        if self._loop is None:
            raise RuntimeError("not entered")
        await super().set(key=key, value=value, ttl=ttl)


@breaks("cache.life.reopens")
class OpensOnce(Store):
    used = False

    async def __aenter__(self) -> Self:
        if self.used:
            raise RuntimeError("closed for good")
        self.used = True
        return await super().__aenter__()


@breaks("cache.life.leaves_no_task")
class LeaksATask(Store):
    async def __aenter__(self) -> Self:
        self.task = asyncio.create_task(asyncio.Event().wait())
        return await super().__aenter__()


class OneConnection:
    """One connection: requests go out, and whoever waits next gets the next reply."""

    def __init__(self) -> None:
        self.replies: list[bytes | None] = []
        self.turn = asyncio.Lock()


@breaks("cache.cancel.in_step")
class GetsTheReplyOfTheCancelled(Store):
    connection: OneConnection | None = None

    async def get(self, *, key: str) -> bytes | None:
        self.connection = self.connection or OneConnection()
        async with self.connection.turn:
            self.connection.replies.append(await super().get(key=key))
            await asyncio.sleep(0.0001)
            return self.connection.replies.pop(0)


@breaks("cache.tasks.keep_apart", "cache.cancel.in_step", "cache.set_many.stores",
        "cache.delete_many.removes")  # fmt: skip
class SharesABuffer(Store):
    buffer: bytes | None = None

    async def get(self, *, key: str) -> bytes | None:
        self.buffer = await super().get(key=key)
        await asyncio.sleep(0)
        return self.buffer


@breaks("cache.tasks.whole_values")
class WritesInTwoSteps(Store):
    async def set(self, *, key: str, value: bytes, ttl: float) -> None:
        if len(value) == 10_000:
            old = self._live(key) or (value, 0)
            await super().set(key=key, value=value[:5000] + old[0][5000:], ttl=ttl)
            await asyncio.sleep(0)
        await super().set(key=key, value=value, ttl=ttl)


@breaks("cache.cancel.is_heard")
class SwallowsCancellation(Store):
    async def set(self, *, key: str, value: bytes, ttl: float) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(0)
        await super().set(key=key, value=value, ttl=ttl)


@breaks("cache.cancel.is_heard", "cache.cancel.in_step")
class TurnsCancellationIntoAnError(Store):
    async def get(self, *, key: str) -> bytes | None:
        try:
            return await super().get(key=key)
        except asyncio.CancelledError:
            raise ConnectionError("interrupted") from None


# Providers.


@breaks("provider.short_name")
class HasNoName(Provider):
    def __init__(self, password: str = "") -> None:
        pass


@breaks("provider.short_name")
class HasAHardName(StoreProvider):
    short_name = "My Store!"


@breaks("provider.supports.works", "provider.life.reopens")
class PromisesALockItLacks(StoreProvider):
    def sync(self, **options: Any) -> Any:
        return object()


@breaks("provider.factory.refuses")
class RefusesWithoutAdvice(StoreProvider):
    supports = ("cache",)

    def sync(self, **options: Any) -> Any:
        raise NotImplementedError("no")


@breaks("provider.factory.refuses")
class MakesWhatItDoesNotSupport(StoreProvider):
    supports = ("cache",)

    def breaker(self, **options: Any) -> Any:
        return object()


@breaks("provider.ping.seconds")
class PingsWithAWord(StoreProvider):
    async def ping(self) -> Any:
        return True


@breaks("provider.url.masked")
class ShowsItsPassword(StoreProvider):
    def __repr__(self) -> str:
        return f"ShowsItsPassword({self._password!r})"


@breaks("provider.life.returns_itself")
class HandsOutNothing(StoreProvider):
    async def __aenter__(self) -> Any:
        return None


@breaks("provider.life.reopens", "cache.life.reopens")
class OpensNoMore(StoreProvider):
    used = False

    async def __aenter__(self) -> Self:
        if self.used:
            raise RuntimeError("closed for good")
        self.used = True
        return self


@breaks("cache.life.borrows")
class ClosesWhatItBorrows(StoreProvider):
    class Adapter(Store):
        async def __aexit__(self, *_: object) -> None:
            await super().__aexit__()
            self.entries[""] = (b"closed", math.inf)

        async def set(self, *, key: str, value: bytes, ttl: float) -> None:
            if self._loop is not None and "" in self.entries:
                raise RuntimeError("the provider is closed")
            await super().set(key=key, value=value, ttl=ttl)

        async def __aenter__(self) -> Self:
            self.entries.pop("", None)
            return await super().__aenter__()

    adapter = Adapter


@pytest.mark.parametrize("made", [Store, Memory, StoreProvider], ids=lambda made: made.__name__)
def test_an_honest_backend_keeps_every_promise(made: type, broken: Found) -> None:
    assert broken(subject(made), CLAUSES) == set()


@pytest.mark.parametrize("made", GALLERY, ids=lambda made: made.__name__)
def test_a_broken_one_breaks_what_it_is_registered_for(made: type, broken: Found) -> None:
    assert broken(subject(made), CLAUSES) == GALLERY[made]


def test_every_clause_can_be_broken() -> None:
    """A clause that nothing can break is no test."""
    caught = set().union(*GALLERY.values())
    assert caught == {each.id for each in CLAUSES}
