"""Defects that were found in use, each by its own name."""

import asyncio
import dataclasses
import functools
import sys
from decimal import Decimal
from typing import Any, Self

import pytest
from pydantic import BaseModel

from grelmicro.cache import JsonSerializer, TTLCache, cached
from grelmicro.cache._arguments import default_key, write
from grelmicro.cache.memory import MemoryCacheAdapter


class Remote:
    """A backend with the four methods alone, whose replies can be held back."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self.stored: dict[str, bytes] = {}
        self.asked, self.go = asyncio.Event(), asyncio.Event()
        self.held: set[str] = set()
        self.fails = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None: ...

    async def _reply(self, command: str) -> None:
        if command in self.held:
            self.asked.set()
            await self.go.wait()

    async def get(self, *, key: str) -> bytes | None:
        found = self.stored.get(key)
        await self._reply("get")
        return found

    async def set(self, *, key: str, value: bytes, ttl: float) -> None:
        self.stored[key] = value

    async def delete(self, *, key: str) -> None:
        await self._reply("delete")
        if self.fails:
            raise ConnectionError
        self.stored.pop(key, None)

    async def clear(self) -> None:
        self.stored.clear()


async def test_a_touch_that_stores_again_does_not_bring_back_what_was_deleted() -> None:
    backend = Remote()
    cache = TTLCache[bytes](backend=backend)
    await cache.set("k", b"old")
    backend.held = {"get"}
    touching = asyncio.create_task(cache.touch("k"))
    await backend.asked.wait()
    await cache.delete("k")
    backend.go.set()
    assert await touching is False
    assert backend.stored == {}


async def test_setting_more_than_there_is_room_for_keeps_no_more() -> None:
    backend = MemoryCacheAdapter()
    cache = TTLCache[bytes](2, backend=backend)
    await cache.set_many({str(number): b"" for number in range(5)})
    assert set(backend.entries) == {"3", "4"}
    assert cache.cache_info().currsize == 2


async def test_a_deletion_that_fails_leaves_its_key_among_those_that_make_room() -> None:
    backend = Remote()
    cache = TTLCache[bytes](1, backend=backend)
    await cache.set("a", b"")
    backend.fails = True
    with pytest.raises(Exception, match="backend failed"):
        await cache.delete("a")
    backend.fails = False
    await cache.set("b", b"")
    assert set(backend.stored) == {"b"}


async def test_nobody_joins_a_load_that_began_while_its_key_was_being_deleted() -> None:
    backend = Remote()
    cache = TTLCache[Any](backend=backend, serializer=JsonSerializer())
    await cache.set("row", "old")
    source, go = "old", asyncio.Event()
    started = asyncio.Event()

    @cached(cache, key="row", lock=True)
    async def load() -> str:
        read = source
        started.set()
        await go.wait()
        return read

    backend.stored.clear()
    backend.held = {"delete"}
    deleting = asyncio.create_task(cache.delete("row"))
    await backend.asked.wait()
    during = asyncio.create_task(load())
    await started.wait()
    source = "new"
    backend.go.set()
    await deleting
    after = asyncio.create_task(load())
    await asyncio.sleep(0)
    go.set()
    assert (await during, await after) == ("old", "new")
    assert await cache.get("row") == "new"


async def test_a_lock_of_the_users_is_waited_for_before_the_load_begins() -> None:
    cache = TTLCache[Any](backend=MemoryCacheAdapter(), serializer=JsonSerializer())
    lock, source = asyncio.Lock(), "old"

    @cached(cache, key="row", lock=lock)
    async def load() -> str:
        return source

    await lock.acquire()
    loading = asyncio.create_task(load())
    await asyncio.sleep(0)
    await cache.delete("row")  # before the source is read: nothing to win over
    source = "new"
    lock.release()
    assert await loading == "new"
    assert await cache.get("row") == "new"


async def test_a_class_patched_before_the_cache_was_made_is_honoured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def get(self: object, *, key: str) -> bytes | None:
        return b"patched"

    monkeypatch.setattr(MemoryCacheAdapter, "get", get)
    assert await TTLCache[bytes](backend=MemoryCacheAdapter()).get("k") == b"patched"


async def test_entries_of_a_strangers_are_no_business_of_ours() -> None:
    class Stranger(Remote):
        entries = "something else altogether"

        async def get(self, *, key: str) -> bytes | None:
            return self.get_nowait(key=key)

        def get_nowait(self, *, key: str) -> bytes | None:
            return self.stored.get(key)

    cache = TTLCache[bytes](backend=Stranger())
    await cache.set("k", b"v")
    assert await cache.get("k") == b"v"


def test_a_zero_with_a_huge_exponent_is_the_number_zero() -> None:
    assert write(Decimal("0E+400")) == write(0)
    assert len({write(Decimal(text)) for text in ("NaN1", "NaN10", "NaN100")}) == 3


def test_a_models_cached_property_is_no_part_of_its_key() -> None:
    class Circle(BaseModel):
        radius: int

        @functools.cached_property
        def area(self) -> float:
            return 3.14 * self.radius**2

    @dataclasses.dataclass
    class Part:
        name: str
        later: int = dataclasses.field(init=False)

    circle = Circle(radius=1)
    before = write(circle)
    assert circle.area
    assert write(circle) == before
    assert write(Part("a")) != write(Part("b"))


def test_the_memo_of_keys_keeps_no_large_argument_alive() -> None:
    def function(text: str) -> None: ...

    make = default_key(function, typed=False)
    large = "x" * 100_000
    before = sys.getrefcount(large)
    make(function, (large,), {})
    assert sys.getrefcount(large) == before


async def test_a_template_shows_no_address() -> None:
    @cached(TTLCache[bytes](backend=MemoryCacheAdapter()), key="{thing!r}")
    async def load(thing: object) -> bytes:
        return b""

    with pytest.raises(TypeError, match="address"):
        await load(object())
