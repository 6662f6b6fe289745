"""What must not go wrong in a service that caches, on the memory backend."""

import asyncio
import threading
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from typing import Self

import pytest

from grelmicro import Grelmicro
from grelmicro.cache import JsonSerializer, TTLCache, cached
from grelmicro.cache.memory import MemoryCacheAdapter
from grelmicro.errors import BackendNotOpenError, CacheError


@pytest.fixture
async def backend() -> AsyncGenerator[MemoryCacheAdapter]:
    async with MemoryCacheAdapter() as adapter:
        yield adapter


@pytest.fixture
def cache(backend: MemoryCacheAdapter) -> TTLCache[object]:
    return TTLCache(backend=backend, serializer=JsonSerializer())


def left_behind(cache: TTLCache[object]) -> int:
    """Entries that loads and flights have left in the cache's registers."""
    return len(cache._loads) + len(cache._flights) + len(cache._thread_flights)


async def test_a_stampede_runs_the_function_once_a_key(cache: TTLCache[object]) -> None:
    runs: list[int] = []
    inside, most = 0, 0

    @cached(cache, lock=True)
    async def load(key: int) -> int:
        nonlocal inside, most
        runs.append(key)
        inside += 1
        most = max(most, inside)
        await asyncio.sleep(0.01)
        inside -= 1
        return key

    results = await asyncio.gather(*(load(call % 5) for call in range(1000)))
    assert results == [call % 5 for call in range(1000)]
    assert sorted(runs) == [0, 1, 2, 3, 4]
    assert most == 5  # different keys in parallel
    assert left_behind(cache) == 0


async def test_a_cancelled_leader_leaves_the_others_with_the_value(
    cache: TTLCache[object],
) -> None:
    started, go, runs = asyncio.Event(), asyncio.Event(), 0

    @cached(cache, lock=True)
    async def load() -> str:
        nonlocal runs
        runs += 1
        started.set()
        await go.wait()
        return "value"

    leader, *others = [asyncio.create_task(load()) for _ in range(5)]
    await started.wait()
    leader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leader
    go.set()
    assert await asyncio.gather(*others) == ["value"] * 4
    assert runs == 1
    assert left_behind(cache) == 0


async def test_all_cancelled_leaves_nothing_behind(cache: TTLCache[object]) -> None:
    started, cleaned_up = asyncio.Event(), False

    @cached(cache, lock=True)
    async def load() -> str:
        nonlocal cleaned_up
        try:
            started.set()
            return await asyncio.Future()
        finally:
            await asyncio.sleep(0)
            cleaned_up = True

    callers = [asyncio.create_task(load()) for _ in range(10)]
    await started.wait()
    for caller in callers:
        caller.cancel()
    await asyncio.gather(*callers, return_exceptions=True)
    assert cleaned_up
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert left_behind(cache) == 0


async def test_failures_are_shared_not_cached_and_not_kept(cache: TTLCache[object]) -> None:
    runs = 0

    @cached(cache, lock=True)
    async def load(key: int) -> int:
        nonlocal runs
        runs += 1
        await asyncio.sleep(0)
        raise LookupError(key)

    outcomes = await asyncio.gather(*(load(1) for _ in range(50)), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [LookupError] * 50
    assert runs == 1
    await asyncio.gather(*(load(key) for key in range(10_000)), return_exceptions=True)
    assert runs == 1 + 10_000
    assert left_behind(cache) == 0


@pytest.mark.parametrize("forget", ["delete", "delete_many", "clear", "set"])
async def test_forgetting_a_key_wins_over_its_load(cache: TTLCache[object], forget: str) -> None:
    source, started, go = "old", asyncio.Event(), asyncio.Event()

    @cached(cache, key="row", lock=True)
    async def load() -> str:
        read = source
        started.set()
        await go.wait()
        return read

    old = asyncio.create_task(load())
    await started.wait()
    source = "new"
    match forget:
        case "delete":
            await cache.delete("row")
        case "delete_many":
            await cache.delete_many(["row"])
        case "clear":
            await cache.clear()
        case _:
            await cache.set("row", "new")
    later = asyncio.create_task(load())  # does not join the old load
    go.set()
    assert (await old, await later) == ("old", "new")
    assert await cache.get("row") == "new"
    assert left_behind(cache) == 0


class SlowBackend:
    """A backend that lives elsewhere: it waits for a word before it stores."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        self.stored: dict[str, bytes] = {}
        self.storing, self.go = asyncio.Event(), asyncio.Event()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None: ...

    async def get(self, *, key: str) -> bytes | None:
        return self.stored.get(key)

    async def set(self, *, key: str, value: bytes, ttl: float) -> None:
        self.storing.set()
        await self.go.wait()
        self.stored[key] = value

    async def delete(self, *, key: str) -> None:
        self.stored.pop(key, None)

    async def clear(self) -> None:
        self.stored.clear()


async def test_a_deletion_waits_for_the_store_that_it_undoes() -> None:
    backend = SlowBackend()
    cache = TTLCache[bytes](backend=backend)

    @cached(cache, key="row")
    async def load() -> bytes:
        return b"old"

    loading = asyncio.create_task(load())
    await backend.storing.wait()
    deleting = asyncio.create_task(cache.delete("row"))
    await asyncio.sleep(0)
    assert not deleting.done()
    backend.go.set()
    await asyncio.gather(loading, deleting)
    assert backend.stored == {}


async def test_falsy_values_are_values(cache: TTLCache[object]) -> None:
    for key, value in {"none": None, "false": False, "zero": 0, "empty": ""}.items():
        runs = 0

        @cached(cache, key=key)
        async def load(value: object = value) -> object:
            nonlocal runs
            runs += 1
            return value

        assert [await load(), await load()] == [value, value]
        assert runs == 1
        assert await cache.get(key, default="missing") == value


async def test_the_loops_own_thread_is_never_blocked(cache: TTLCache[object]) -> None:
    leading, go = threading.Event(), threading.Event()

    @cached(cache, key="row", lock=True)
    def load() -> str:
        if threading.current_thread() is not threading.main_thread():
            leading.set()
            go.wait(10)
        return "value"

    worker = asyncio.create_task(asyncio.to_thread(load))
    await asyncio.to_thread(leading.wait, 10)
    assert load() == "value"  # loads for itself: the worker may need this loop
    go.set()
    assert await worker == "value"
    assert load() == "value"


async def test_threads_share_one_load_and_hit_without_the_loop(cache: TTLCache[object]) -> None:
    runs, gate = 0, threading.Barrier(20)

    @cached(cache, lock=True)
    def load(key: int) -> int:
        nonlocal runs
        runs += 1
        return key

    def call() -> int:
        gate.wait(10)
        return load(1)

    with ThreadPoolExecutor(20) as pool:
        loop = asyncio.get_running_loop()
        results = await asyncio.gather(*(loop.run_in_executor(pool, call) for _ in range(20)))
        assert results == [1] * 20
        assert runs == 1
        assert pool.submit(load, 1).result(10) == 1  # with the loop's thread standing still
    assert left_behind(cache) == 0


async def test_a_function_that_calls_itself_does_not_wait_for_itself(
    cache: TTLCache[object],
) -> None:
    @cached(cache, key="same", lock=True)
    async def load(depth: int) -> int:
        return await load(depth - 1) + 1 if depth else 0

    async with asyncio.timeout(10):
        assert await load(3) == 3


def test_a_thread_is_told_that_the_backend_is_not_open() -> None:
    @cached(TTLCache(backend=MemoryCacheAdapter()))
    def load() -> bytes:
        return b""

    with pytest.raises(BackendNotOpenError, match="MemoryCacheAdapter is not open"):
        load()


async def test_a_changed_get_is_honoured(
    backend: MemoryCacheAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Shouting(MemoryCacheAdapter):
        async def get(self, *, key: str) -> bytes | None:
            return b"SHOUT"

    async def get(self: object = None, *, key: str) -> bytes | None:
        return b"patched"

    @cached(TTLCache(backend=backend), key="k")
    async def load() -> bytes:
        return b"plain"

    assert await TTLCache(backend=Shouting()).get("k") == b"SHOUT"
    assert await load() == b"plain"
    with monkeypatch.context() as patch:
        patch.setattr(backend, "get", get)
        assert await TTLCache(backend=backend).get("k") == b"patched"
        assert await load() == b"patched"
    with monkeypatch.context() as patch:
        patch.setattr(MemoryCacheAdapter, "get", get)
        assert await load() == b"patched"
    assert await load() == b"plain"


async def test_an_override_is_seen_by_what_is_cached_already(
    backend: MemoryCacheAdapter,
) -> None:
    ambient = TTLCache[bytes]()
    async with Grelmicro(uses=[backend]) as micro:
        of_component = micro.cache.ttl()
        await ambient.set("k", b"real")
        async with micro.override(MemoryCacheAdapter()):
            assert await ambient.get("k") is None
            assert await of_component.get("k") is None
            await of_component.set("k", b"test")
            assert await ambient.get("k") == b"test"
        assert await ambient.get("k") == await of_component.get("k") == b"real"


class Failing(SlowBackend):
    """A backend that is away."""

    away = True

    async def get(self, *, key: str) -> bytes | None:
        if self.away:
            raise ConnectionResetError("gone")
        return await super().get(key=key)

    async def set(self, *, key: str, value: bytes, ttl: float) -> None:
        if self.away:
            raise ConnectionResetError("gone")
        self.stored[key] = value


async def test_a_failing_backend_is_done_without_and_told_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    backend = Failing()
    cache = TTLCache[bytes](backend=backend)
    runs = 0

    @cached(cache, lock=True)
    async def load() -> bytes:
        nonlocal runs
        runs += 1
        return b"value"

    for _ in range(5):
        assert await load() == b"value"
    assert runs == 5
    with pytest.raises(CacheError) as failure:
        await cache.get("k")
    assert isinstance(failure.value.__cause__, ConnectionResetError)
    assert len(caplog.records) == 1
    backend.away = False
    assert [await load(), await load()] == [b"value"] * 2
    assert runs == 6
    assert [record.message.split(" (")[0] for record in caplog.records] == [
        "the cache fails to read",
        "the cache can read again for "
        "test_a_failing_backend_is_done_without_and_told_once.<locals>.load",
    ]
