"""What depends on time and on room: expiry, eviction, and the policies of `cached`."""

import asyncio
import random
import threading
import time
from collections import OrderedDict
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grelmicro.cache import JsonSerializer, TTLCache, _cached, _reader, _recency, cached
from grelmicro.cache import memory as memory_module
from grelmicro.cache.memory import MemoryCacheAdapter


class Clock:
    """A monotonic clock that stands still until it is told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    virtual = Clock()
    for module in (memory_module, _reader, _recency, _cached):
        monkeypatch.setattr(module, "monotonic", virtual)
    return virtual


async def test_an_entry_expires_at_its_ttl_and_not_before(clock: Clock) -> None:
    backend = MemoryCacheAdapter()
    cache = TTLCache[bytes](ttl=60, backend=backend)
    await cache.set("k", b"v")
    clock.now += 59.999
    assert await cache.get("k") == await backend.get(key="k") == b"v"
    clock.now += 0.001
    assert await cache.get("k") is None
    assert await backend.get(key="k") is None
    assert backend.entries == {}


async def test_a_step_of_the_wall_clock_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    cache = TTLCache[bytes](ttl=60, backend=MemoryCacheAdapter())
    await cache.set("k", b"v")
    monkeypatch.setattr(time, "time", lambda: 4_000_000_000.0)
    assert await cache.get("k") == b"v"


async def test_expired_entries_leave_with_the_writes_that_follow(clock: Clock) -> None:
    backend = MemoryCacheAdapter()
    for number in range(1000):
        await backend.set(key=str(number), value=b"", ttl=1 + number / 1000)
    clock.now += 10
    before = len(backend.entries)
    await backend.set(key="new", value=b"", ttl=60)
    assert before - len(backend.entries) <= 4  # bounded
    for number in range(400):
        await backend.set(key=f"new {number}", value=b"", ttl=60)
    assert len(backend.entries) == 401


async def test_the_timer_of_an_open_adapter_removes_a_bounded_number(clock: Clock) -> None:
    async with MemoryCacheAdapter() as backend:
        await backend.set_many(entries={str(n): b"" for n in range(5000)}, ttl=1)
        clock.now += 10
        backend._sweep()
        assert len(backend.entries) == 3000
        backend._sweep()
        backend._sweep()
        assert backend.entries == {}


async def test_overwrites_leave_no_pile(clock: Clock) -> None:
    loop: Any = asyncio.get_running_loop()
    async with MemoryCacheAdapter() as backend:
        timers = len(loop._scheduled)
        for number in range(20_000):
            clock.now += 0.01
            await backend.set(key=str(number % 3), value=b"", ttl=3600)
        assert len(loop._scheduled) == timers
        assert len(backend._expiry._slots) <= 3


async def test_an_entry_is_right_in_another_loop_and_thread() -> None:
    cache = TTLCache[bytes](backend=MemoryCacheAdapter())
    await cache.set("k", b"v")
    found: list[bytes | None] = []
    other = threading.Thread(target=lambda: found.append(asyncio.run(cache.get("k"))))
    other.start()
    await asyncio.to_thread(other.join)
    assert found == [b"v"]


@given(
    maxsize=st.integers(1, 3),
    steps=st.lists(
        st.tuples(
            st.sampled_from(["get", "set", "set long", "delete", "wait"]), st.sampled_from("abcd")
        ),
        max_size=40,
    ),
)
@settings(deadline=None)
def test_a_bounded_cache_behaves_as_its_model(maxsize: int, steps: list[tuple[str, str]]) -> None:
    clock = Clock()
    model: OrderedDict[str, tuple[bytes, float]] = OrderedDict()

    def live(key: str) -> bytes | None:
        value, deadline = model.get(key, (b"", 0.0))
        if deadline <= clock.now:
            model.pop(key, None)
            return None
        model.move_to_end(key)
        return value

    def store(key: str, value: bytes, ttl: float) -> None:
        model.pop(key, None)
        model[key] = (value, clock.now + ttl)
        while len(model) > maxsize:
            due = [each for each, (_, deadline) in model.items() if deadline <= clock.now]
            del model[due[0] if due else next(iter(model))]

    async def run() -> None:
        cache = TTLCache[bytes](maxsize, 10, backend=MemoryCacheAdapter())
        for number, (step, key) in enumerate(steps):
            match step:
                case "get":
                    assert await cache.get(key) == live(key)
                case "set" | "set long":
                    ttl = 10.0 if step == "set" else 100.0
                    store(key, b"%d" % number, ttl)
                    await cache.set(key, b"%d" % number, ttl=ttl)
                case "delete":
                    model.pop(key, None)
                    await cache.delete(key)
                case _:
                    clock.now += 4.0
            counted = sum(deadline > clock.now for _, deadline in model.values())
            assert cache.cache_info().currsize == counted <= maxsize

    with pytest.MonkeyPatch.context() as patch:
        for module in (memory_module, _reader, _recency):
            patch.setattr(module, "monotonic", clock)
        asyncio.run(run())


async def test_an_eviction_that_fails_keeps_its_victim_known() -> None:
    class Sticky(MemoryCacheAdapter):
        fails = True

        async def delete(self, *, key: str) -> None:
            if self.fails:
                raise ConnectionError
            await super().delete(key=key)

    backend = Sticky()
    cache = TTLCache[bytes](2, backend=backend)
    await cache.set("a", b"")
    await cache.set("b", b"")
    with pytest.raises(Exception, match="backend failed"):
        await cache.set("c", b"")
    backend.fails = False
    await cache.set("d", b"")
    assert len(backend.entries) == cache.cache_info().currsize == 2
    assert await cache.get("a") is None


def json_cache() -> tuple[TTLCache[Any], MemoryCacheAdapter]:
    """A cache of JSON values, and its backend."""
    backend = MemoryCacheAdapter()
    return TTLCache(ttl=100, backend=backend, serializer=JsonSerializer(), name="c"), backend


async def test_jitter_takes_off_no_more_than_its_share(clock: Clock) -> None:
    cache, backend = json_cache()

    @cached(cache, jitter=0.2)
    async def load(number: int) -> int:
        return number

    for number in range(200):
        await load(number)
    left = [deadline - clock.now for _, deadline in backend.entries.values()]
    assert 80 <= min(left) < 85 < 95 < max(left) <= 100


async def test_stale_values_are_served_only_when_the_function_fails(clock: Clock) -> None:
    cache, _ = json_cache()
    source: list[Any] = ["first"]

    @cached(cache, stale_ttl=50, lock=True)
    async def load() -> Any:
        if isinstance(source[0], Exception):
            raise source[0]
        return source[0]

    assert await load() == "first"
    source[0] = "second"
    clock.now += 100
    assert await load() == "second"
    source[0] = LookupError("no source")
    clock.now += 100
    assert await load() == "second"
    clock.now += 49.9
    assert await load() == "second"
    clock.now += 0.1
    with pytest.raises(LookupError, match="no source"):
        await load()


@pytest.mark.parametrize("lock", [None, True])
async def test_an_early_refresh_is_likelier_towards_the_end(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, lock: Any
) -> None:
    cache, _ = json_cache()
    runs = 0

    @cached(cache, early=True, lock=lock)
    async def load() -> int:
        nonlocal runs
        runs += 1
        monkeypatch.setattr("grelmicro.cache._recipe.perf_counter", lambda: 10.0)  # costs 10 s
        return runs

    monkeypatch.setattr("grelmicro.cache._recipe.perf_counter", lambda: 0.0)
    assert await load() == 1
    monkeypatch.setattr(random, "random", lambda: 0.5)  # -ln(0.5) x 10 s = 6.9 s
    clock.now += 93
    assert await load() == 1
    clock.now += 0.1
    assert await load() == 2  # ahead of the end
    assert runs == 2


async def test_tags_forget_entries_of_other_caches_and_of_loads_in_flight() -> None:
    backend = MemoryCacheAdapter()
    here = TTLCache[Any](backend=backend, serializer=JsonSerializer(), name="shared")
    there = TTLCache[Any](backend=backend, serializer=JsonSerializer(), name="shared")
    source, started, go = "old", asyncio.Event(), asyncio.Event()

    @cached(here, key="{number}", tags=["all", "number:{number}"], lock=True)
    async def load(number: int) -> str:
        read = source
        started.set()
        await go.wait()
        return read

    loading = asyncio.create_task(load(1))
    await started.wait()
    source = "new"
    await there.invalidate_tags("number:1")  # in another process, so to speak
    go.set()
    assert await loading == "old"
    assert await load(1) == "new"
    assert await load(2) == "new"
    source = "newest"
    await here.invalidate_tags("number:2")
    assert [await load(1), await load(2)] == ["new", "newest"]
    await here.invalidate_tags("all")
    assert await load(1) == "newest"


async def test_what_is_skipped_is_not_kept() -> None:
    cache, backend = json_cache()
    runs = 0

    @cached(cache, skip=lambda value: value is None)
    async def load() -> None:
        nonlocal runs
        runs += 1

    await load()
    await load()
    assert runs == 2
    assert backend.entries == {}


async def test_several_keys_at_once() -> None:
    backend = MemoryCacheAdapter()
    cache = TTLCache[bytes](backend=backend, name="many")
    await cache.set_many({"a": b"1", "b": b"2", "c": b""})
    assert await cache.get_many(["c", "a", "missing"]) == {"c": b"", "a": b"1"}
    await cache.delete_many(["a", "missing"])
    assert await cache.get_many(["a", "b"]) == {"b": b"2"}
    assert (await cache.touch("b", ttl=500), await cache.touch("a")) == (True, False)
    entry = await backend.get_with_ttl(key="~many:b")
    assert entry is not None
    assert entry[1] > 400
    info = cache.cache_info()
    assert (info.hits, info.misses, info.currsize) == (3, 2, 2)
