"""TTLCache and `cached` on Redis: whose an entry is, what it says, and whether it can be read."""

import asyncio
import logging
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from grelmicro.cache import (
    CacheSerializer,
    CompressedSerializer,
    JsonSerializer,
    PickleSerializer,
    PydanticSerializer,
    SignedSerializer,
    TTLCache,
    cached,
)
from grelmicro.cache.redis import RedisCacheAdapter

Calls = Callable[[Any], dict[str, int]]


class User(BaseModel):
    id: int


SIGNED = SignedSerializer(PickleSerializer[Any](), b"a secret of 16 bytes and more")
SERIALIZERS: dict[str, CacheSerializer[Any]] = {
    "json": JsonSerializer(),
    "pydantic": PydanticSerializer(dict[str, int]),
    "pickle": PickleSerializer(),
    "signed": SIGNED,
    "compressed": CompressedSerializer(JsonSerializer(), min_size=0),
}


@pytest.mark.parametrize("serializer", SERIALIZERS)
@pytest.mark.parametrize("poison", [b"", b"\x00", b"{", b"\xff" * 100, "first half"])
async def test_what_cannot_be_read_is_a_miss_and_one_warning_and_is_overwritten(
    serializer: str, poison: bytes | str, adapter: RedisCacheAdapter, redis_prefix: str, other: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    cache = TTLCache(backend=adapter, serializer=SERIALIZERS[serializer])
    runs = 0

    @cached(cache, key="k")
    async def load() -> dict[str, int]:
        nonlocal runs
        runs += 1
        return {"number": runs}

    assert await load() == {"number": 1}
    (name,) = other.scan_iter(redis_prefix + "*")
    whole = other.get(name)
    other.set(name, whole[: len(whole) // 2] if isinstance(poison, str) else poison, keepttl=True)
    assert await cache.get("k", {"default": 0}) == {"default": 0}
    assert await load() == {"number": 2}
    assert await load() == {"number": 2}
    assert other.get(name) != whole
    warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 1
    assert "cannot be read" in warnings[0].message


class Bomb:
    """Makes a file of the name it was given when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return Path.touch, (self._path,)


@pytest.mark.parametrize("signature", [b"", b"\0" * 32, b"cut"])
async def test_a_bad_signature_is_never_unpickled(
    signature: bytes, tmp_path: Path, adapter: RedisCacheAdapter, redis_prefix: str, other: Any
) -> None:
    evil = pickle.dumps(Bomb(tmp_path / "bang"))
    pickle.loads(evil)
    (tmp_path / "bang").unlink()  # it does go off
    other.set(f"{redis_prefix}cache:k", signature + evil)
    cache = TTLCache(backend=adapter, serializer=SIGNED)
    assert await cache.get("k") is None
    assert await cache.get_many(["k"]) == {}
    assert not (tmp_path / "bang").exists()


async def test_an_entry_of_a_wrong_type_is_a_cache_error_and_the_function_runs(
    adapter: RedisCacheAdapter, redis_prefix: str, other: Any
) -> None:
    other.lpush(f"{redis_prefix}cache:k", "not a string")
    cache = TTLCache(backend=adapter, serializer=JsonSerializer())

    @cached(cache, key="k")
    async def load() -> int:
        return 1

    assert await load() == 1
    assert await cache.touch("k")


@pytest.mark.parametrize("value", [None, False, 0, "", {}, []])
async def test_what_is_false_is_a_value(value: object, adapter: RedisCacheAdapter) -> None:
    cache = TTLCache(backend=adapter, serializer=JsonSerializer())
    runs = 0

    @cached(cache)
    async def load() -> object:
        nonlocal runs
        runs += 1
        return value

    assert await load() == value
    assert await load() == value
    assert runs == 1
    assert await TTLCache(backend=adapter).get("absent", b"") == b""


# Names.


async def test_caches_of_different_names_share_a_server_without_meeting(
    adapter: RedisCacheAdapter,
) -> None:
    names = [None, "a", "b", "a:b", "a~", "~", "*", "[ab]"]
    caches = {name: TTLCache(backend=adapter, name=name) for name in names}
    keys = ["k", "a:k", "~a:k", "~:k", "b:k", "~a~0:k", "*"]
    for name, cache in caches.items():
        for key in keys:
            await cache.set(key, f"{name}/{key}".encode())
    for name, cache in caches.items():
        found = await cache.get_many(keys)
        assert found == {key: f"{name}/{key}".encode() for key in keys}


@pytest.mark.parametrize("name", ["a", "*", "a:b", "[ab]"])
async def test_a_named_cache_clears_only_itself(name: str, adapter: RedisCacheAdapter) -> None:
    names = [None, "a", "b", "a:b", "*", "[ab]"]
    caches = {each: TTLCache(backend=adapter, name=each) for each in names}
    for cache in caches.values():
        await cache.set("k", b"v")
    await caches[name].clear()
    assert [each for each in names if await caches[each].get("k") is None] == [name]


async def test_an_unnamed_cache_clears_all_of_its_adapter_and_no_more(
    adapter: RedisCacheAdapter, redis_prefix: str, other: Any
) -> None:
    other.set(f"{redis_prefix}lock:k", b"somebody else's")
    for name in (None, "a"):
        await TTLCache(backend=adapter, name=name).set("k", b"v")
    await TTLCache(backend=adapter).clear()
    assert list(other.scan_iter(redis_prefix + "*")) == [f"{redis_prefix}lock:k".encode()]


# The fleet: two adapters stand for two processes.


@pytest.fixture
def fleet(adapter: RedisCacheAdapter, redis_prefix: str) -> list[TTLCache[Any]]:
    adapters = [adapter, adapter.provider.cache(prefix=redis_prefix)]
    return [TTLCache(backend=each, serializer=JsonSerializer(), name="fleet") for each in adapters]


async def test_tags_are_invalid_in_the_whole_fleet(fleet: list[TTLCache[Any]]) -> None:
    runs = 0

    def function(cache: TTLCache[Any]) -> Callable[[int], Any]:
        @cached(cache, key="user:{number}", tags=["users", "user:{number}"])
        async def load(number: int) -> int:
            nonlocal runs
            runs += 1
            return runs

        return load

    here, there = map(function, fleet)
    assert [await here(1), await here(2), await there(1), await there(2)] == [1, 2, 1, 2]
    await fleet[1].invalidate_tags("user:1")
    assert [await here(1), await there(1), await here(2)] == [3, 3, 2]
    await fleet[0].invalidate_tags("users")
    assert [await there(1), await there(2)] == [4, 5]


async def test_a_stale_value_is_served_while_the_function_fails(
    fleet: list[TTLCache[Any]],
) -> None:
    works, runs = True, 0

    @cached(fleet[0], key="k", stale_ttl=60)
    async def load() -> int:
        nonlocal runs
        runs += 1
        if not works:
            raise LookupError("no source")
        return runs

    fleet[0]._ttl = 0.05
    assert await load() == 1
    works = False
    async with asyncio.timeout(20):
        while runs == 1:  # fresh, and then old, and better than an error
            assert await load() == 1
            await asyncio.sleep(0.01)
    assert await load() == 1
    works = True
    assert await load() == runs > 1


async def test_an_early_refresh_comes_before_the_end(fleet: list[TTLCache[Any]]) -> None:
    runs = 0

    @cached(fleet[0], key="k", early=1e9)
    async def load() -> int:
        nonlocal runs
        runs += 1
        await asyncio.sleep(0.001)
        return runs

    assert [await load() for _ in range(3)] == [1, 2, 3]  # so eager that every call refreshes


async def test_a_stampede_on_one_key_runs_the_function_once(
    adapter: RedisCacheAdapter,
) -> None:
    cache = TTLCache(backend=adapter, serializer=JsonSerializer())
    runs: list[int] = []

    @cached(cache, lock=True)
    async def load(number: int) -> int:
        runs.append(number)
        await asyncio.sleep(0.01)
        return number

    assert await asyncio.gather(*(load(7) for _ in range(1000))) == [7] * 1000
    assert runs == [7]
    results = await asyncio.gather(*(load(call % 5) for call in range(500)))
    assert results == [call % 5 for call in range(500)]
    assert sorted(runs) == [0, 1, 2, 3, 4, 7]


async def test_a_deletion_wins_over_a_load_in_flight(adapter: RedisCacheAdapter) -> None:
    cache = TTLCache(backend=adapter, serializer=JsonSerializer())
    started, go = asyncio.Event(), asyncio.Event()

    async def make() -> str:
        started.set()
        await go.wait()
        return "old"

    loading = asyncio.create_task(cache.get_or_set("k", make))
    await started.wait()
    await cache.delete("k")
    go.set()
    assert await loading == "old"
    assert await cache.get("k") is None


async def test_statistics_and_maxsize(adapter: RedisCacheAdapter) -> None:
    cache = TTLCache(2, backend=adapter)
    for key in "abc":
        await cache.set(key, key.encode())
    assert [await cache.get(key) for key in "abc"] == [None, b"b", b"c"]
    info = cache.cache_info()
    assert (info.hits, info.misses, info.maxsize, info.currsize, info.evictions) == (2, 1, 2, 2, 1)


async def test_many_values_are_few_round_trips(
    adapter: RedisCacheAdapter, other: Any, calls: Calls
) -> None:
    cache = TTLCache(backend=adapter, name="many", serializer=JsonSerializer())
    values = {f"k{number}": number for number in range(1000)}
    await cache.set_many(values)
    before = calls(other)
    assert await cache.get_many(values) == values
    await cache.delete_many(values)
    after = calls(other)
    asked = {name: after[name] - before.get(name, 0) for name in ("mget", "unlink")}
    assert asked == {"mget": 2, "unlink": 2}
    assert after.get("get", 0) == before.get("get", 0)
