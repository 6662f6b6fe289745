"""What the cache adapter writes to the server, asks of it, and leaves alone."""

import asyncio
import math
import random
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import pytest

from grelmicro.cache.redis import RedisCacheAdapter
from grelmicro.providers.redis import RedisProvider
from grelmicro.testing.servers import RedisServer

Calls = Callable[[Any], dict[str, int]]
PREFIXES = ["", "app:", "*", "a?c:", "[a-z]", "[^a]", "a\\", "\\*", "é:", "{tag}", "a\nb\0"]


def pour(client: Any, keys: Iterable[str | bytes]) -> None:
    """Write keys by another client, in one pipeline."""
    with client.pipeline(transaction=False) as pipe:
        for key in keys:
            pipe.set(key, b"v")
        pipe.execute()


class Asked:
    """What a server was asked between two looks."""

    def __init__(self, client: Any, calls: Calls) -> None:
        self._client = client
        self._calls = calls
        self._before = calls(client)

    def of(self, *names: str) -> dict[str, int]:
        now = self._calls(self._client)
        return {name: now.get(name, 0) - self._before.get(name, 0) for name in names}


@pytest.fixture
def asked(other: Any, calls: Calls) -> Callable[[], Asked]:
    return lambda: Asked(other, calls)


async def test_the_key_is_the_prefix_then_cache_then_the_key(
    provider: RedisProvider, redis_prefix: str, other: Any
) -> None:
    await provider.cache(prefix=redis_prefix).set(key="user:1", value=b"v", ttl=60)
    assert list(other.scan_iter(redis_prefix + "*")) == [f"{redis_prefix}cache:user:1".encode()]
    assert other.get(f"{redis_prefix}cache:user:1") == b"v"


async def test_the_default_prefix_is_none(own_redis: RedisServer, own_other: Any) -> None:
    async with RedisProvider(own_redis.url) as provider:
        for adapter in (provider.cache(), RedisCacheAdapter(provider=provider)):
            await adapter.set(key="k", value=b"v", ttl=60)
            assert own_other.keys() == [b"cache:k"]


async def test_the_ttl_is_in_whole_milliseconds_rounded_up(
    own_redis: RedisServer, own_other: Any
) -> None:
    milliseconds = {
        *((60, 60_000), (1.5, 1500), (0.75, 750), (59.9991, 60_000), (0.0101, 11), (0.0004, 1)),
        *((86_400 * 36_500, 86_400_000 * 36_500), (1e30, 10**15), (1e300, 10**15)),
    }
    own_other.config_set("slowlog-log-slower-than", "0")
    async with RedisProvider(own_redis.url) as provider:
        adapter = provider.cache()
        for ttl, expected in milliseconds:
            own_other.slowlog_reset()
            await adapter.set(key="k", value=b"v", ttl=ttl)
            await adapter.set_many(entries={"k": b"v"}, ttl=ttl)
            await adapter.touch(key="k", ttl=ttl)
            asked = [entry["command"].split() for entry in own_other.slowlog_get()]
            said = {words[-1] for words in asked if words[0] in (b"SET", b"PEXPIRE")}
            assert said == {b"%d" % expected}


async def test_an_entry_lives_as_long_as_was_said(
    adapter: RedisCacheAdapter, redis_prefix: str, other: Any
) -> None:
    await adapter.set(key="k", value=b"v", ttl=60)
    assert 55_000 < other.pttl(f"{redis_prefix}cache:k") <= 60_000
    await adapter.touch(key="k", ttl=1e30)
    assert other.pttl(f"{redis_prefix}cache:k") > 10**14


@pytest.mark.parametrize("ttl", [0.001, 0.0004, 1e-9])
async def test_less_than_a_millisecond_is_one(ttl: float, adapter: RedisCacheAdapter) -> None:
    await adapter.set(key="k", value=b"v", ttl=ttl)
    await asyncio.sleep(0.02)
    assert await adapter.get(key="k") is None


async def test_an_entry_that_somebody_else_made_eternal(
    adapter: RedisCacheAdapter, redis_prefix: str, other: Any
) -> None:
    other.set(f"{redis_prefix}cache:k", b"v")
    assert await adapter.get_with_ttl(key="k") == (b"v", math.inf)


async def test_clear_removes_its_own_20_000_and_nobody_elses(
    own_redis: RedisServer, own_other: Any, calls: Calls
) -> None:
    foreign = [f"cache{n}" for n in range(5_000)] + [f"lock:{n}" for n in range(5_000)]
    foreign += [f"app:cache:{n}" for n in range(5_000)] + [f"Cache:{n}" for n in range(5_000)]
    pour(own_other, foreign)
    pour(own_other, [f"cache:{n}" for n in range(20_000)])
    asked = Asked(own_other, calls)
    async with RedisProvider(own_redis.url) as provider:
        await provider.cache().clear()
    assert own_other.dbsize() == len(foreign)
    assert {key.decode() for key in own_other.scan_iter(count=5000)} == set(foreign)
    names = ("flushdb", "flushall", "keys", "del", "scan", "unlink")
    counts = asked.of(*names)
    assert [counts[name] for name in names[:4]] == [0, 0, 0, 0]
    assert 20 <= counts["scan"] <= 100
    assert 40 <= counts["unlink"] <= 200


async def test_clear_lets_others_be_served_meanwhile(
    own_redis: RedisServer, own_other: Any
) -> None:
    pour(own_other, [f"cache:{n}" for n in range(20_000)])
    async with RedisProvider(own_redis.url) as provider:
        clearing = asyncio.create_task(provider.cache().clear())
        served = 0
        while not clearing.done():
            await provider.ping()
            served += 1
    assert served > 10


@pytest.mark.parametrize("prefix", PREFIXES)
async def test_a_prefix_is_literal(
    prefix: str, provider: RedisProvider, redis_prefix: str, other: Any
) -> None:
    prefixes = [redis_prefix + each for each in PREFIXES]
    adapters = [provider.cache(prefix=each) for each in prefixes]
    for adapter in adapters:
        await adapter.set(key="k", value=b"v", ttl=60)
    lookalikes = [f"{redis_prefix}{text}" for text in ("abc:cache:k", "acache:k", "bcache:k", "k")]
    pour(other, lookalikes)
    await provider.cache(prefix=redis_prefix + prefix).clear()
    left = {key.decode() for key in other.scan_iter(redis_prefix + "*")}
    assert left == {
        *(f"{each}cache:k" for each in prefixes if each != redis_prefix + prefix),
        *lookalikes,
    }


@pytest.mark.parametrize("part", ["a", "a*", "a?", "[ab]", "a\\", "[^a]", "", "~n:"])
async def test_a_part_is_cleared_literally(part: str, adapter: RedisCacheAdapter) -> None:
    keys = [f"{start}{end}" for start in ("a", "a*", "a?", "[ab]", "a\\", "[^a]", "b", "~n:")
            for end in ("", "x", "*")]  # fmt: skip
    await adapter.set_many(entries=dict.fromkeys(keys, b"v"), ttl=60)
    await adapter.clear(prefix=part)
    left = await adapter.get_many(keys=keys)
    assert set(left) == {key for key in keys if not key.startswith(part)}


@pytest.mark.parametrize("count", [0, 1, 499, 500, 501, 1000, 1001])
async def test_many_keys_go_in_batches(
    count: int, adapter: RedisCacheAdapter, asked: Callable[[], Asked]
) -> None:
    entries = {f"k{number}": b"%d" % number for number in range(count)}
    batches = math.ceil(count / 500)

    look = asked()
    await adapter.set_many(entries=entries, ttl=60)
    assert look.of("set") == {"set": count}

    look = asked()
    assert await adapter.get_many(keys=[*entries]) == entries
    assert look.of("mget", "get") == {"mget": batches, "get": 0}

    look = asked()
    await adapter.delete_many(keys=[*entries])
    assert look.of("unlink", "del") == {"unlink": batches, "del": 0}
    assert await adapter.get_many(keys=[*entries]) == {}


async def test_single_operations_are_one_round_trip(
    adapter: RedisCacheAdapter, asked: Callable[[], Asked]
) -> None:
    await adapter.set(key="k", value=b"v", ttl=60)
    await adapter.get_with_ttl(key="k")  # the server may not know the script before
    operations: list[tuple[Callable[[], Awaitable[object]], str]] = [
        (lambda: adapter.get(key="k"), "get"),
        (lambda: adapter.set(key="k", value=b"v", ttl=60), "set"),
        (lambda: adapter.touch(key="k", ttl=60), "pexpire"),
        (lambda: adapter.get_with_ttl(key="k"), "evalsha"),
        (lambda: adapter.delete(key="k"), "unlink"),
    ]
    for operation, command in operations:
        look = asked()
        await operation()
        assert look.of(command) == {command: 1}


async def test_get_many_says_nothing_of_what_is_absent(adapter: RedisCacheAdapter) -> None:
    await adapter.set(key="here", value=b"", ttl=60)
    found = await adapter.get_many(keys=["absent", "here", "here"])
    assert found == {"here": b""}


async def test_a_failing_set_many_leaves_no_task(own_redis: RedisServer, own_other: Any) -> None:
    async with RedisProvider(own_redis.url) as provider:
        adapter = provider.cache()
        await adapter.set(key="k", value=b"v", ttl=60)
        own_other.config_set("maxmemory", "1")
        with pytest.raises(Exception, match="maxmemory"):
            await adapter.set_many(entries={f"k{n}": b"v" for n in range(600)}, ttl=60)
        own_other.config_set("maxmemory", "0")
        assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_random_operations_agree_with_a_dict(adapter: RedisCacheAdapter) -> None:
    chance, model = random.Random(4), dict[str, bytes]()
    keys = ["", "a", "a*", "b", "é", "\0"]
    for number in range(300):
        key, value = chance.choice(keys), b"%d" % number
        match chance.randrange(6):
            case 0 | 1:
                await adapter.set(key=key, value=value, ttl=60)
                model[key] = value
            case 2:
                await adapter.delete(key=key)
                model.pop(key, None)
            case 3:
                await adapter.set_many(entries={key: value, "b": value}, ttl=60)
                model |= {key: value, "b": value}
            case 4:
                await adapter.delete_many(keys=[key, "b"])
                model = {k: v for k, v in model.items() if k not in (key, "b")}
            case 5 if key:
                await adapter.clear(prefix=key)
                model = {k: v for k, v in model.items() if not k.startswith(key)}
        assert await adapter.get(key=key) == model.get(key)
        assert await adapter.get_many(keys=keys) == model
