"""Real sentinels: commands go to whoever is primary now."""

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from redis.exceptions import AuthenticationError, RedisError

from grelmicro.providers import from_url
from grelmicro.providers.redis import OutcomeUnknownError, RedisProvider
from grelmicro.testing.servers import RedisSentinel, redis_sentinel

Until = Callable[[Callable[[], object], str], Any]

SECRET = "s3cr3t/p@ss"


@pytest.mark.parametrize("multiplex", [True, False])
async def test_the_primary_is_found(own_redis_sentinel: RedisSentinel, multiplex: bool) -> None:
    primary = own_redis_sentinel.primary
    async with (
        RedisProvider(own_redis_sentinel.url, multiplex=multiplex) as provider,
        RedisProvider(primary.url) as direct,
    ):
        await provider.execute("SET", "k", "v")
        assert await direct.execute("GET", "k") == b"v"
        assert await provider.client.get("k") == b"v"
        cache = provider.cache()
        await cache.set(key="k", value=b"v", ttl=60)
        assert await cache.get_many(keys=["k"]) == {"k": b"v"}
        await cache.clear()
        assert await cache.get(key="k") is None
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_sentinel_that_is_dead_is_passed_over() -> None:
    with redis_sentinel(sentinels=3) as sentinel:
        await asyncio.to_thread(sentinel.sentinels[0].kill)
        async with from_url(sentinel.url) as provider:
            assert await provider.ping() > 0


async def test_passwords_of_both() -> None:
    with redis_sentinel(replicas=0, password=SECRET, sentinel_password="0ther") as sentinel:
        for multiplex in (True, False):
            async with RedisProvider(sentinel.url, multiplex=multiplex) as provider:
                assert await provider.ping() > 0
                assert "s3cr3t" not in repr(provider) + provider.url
                assert "0ther" not in repr(provider) + provider.url
        async with RedisProvider(sentinel.url.replace("s3cr3t", "wr0ng"), timeout=2) as provider:
            with pytest.raises(AuthenticationError) as caught:
                await provider.ping()
            assert "wr0ng" not in str(caught.value)


async def test_a_service_that_nobody_knows(own_redis_sentinel: RedisSentinel) -> None:
    url = own_redis_sentinel.url.replace("mymaster", "nobody")
    async with RedisProvider(url, timeout=2) as provider:
        with pytest.raises(RedisError, match="nobody"):
            await provider.ping()


@pytest.mark.parametrize("how", ["killed", "asked"])
async def test_a_failover_under_load(
    how: str, own_redis_sentinel: RedisSentinel, until: Until
) -> None:
    sentinel = own_redis_sentinel
    outcomes: Counter[str] = Counter()
    over = asyncio.Event()

    async def count(provider: RedisProvider) -> None:
        while not over.is_set():
            try:
                await provider.execute("INCR", "n")
                outcomes["done"] += 1
            except (OutcomeUnknownError, TimeoutError):
                outcomes["unknown"] += 1
            except RedisError:
                outcomes["refused"] += 1
            await asyncio.sleep(0.001)

    async with RedisProvider(sentinel.url, timeout=2) as provider:
        tasks = [asyncio.create_task(count(provider)) for _ in range(10)]
        await until(lambda: outcomes["done"] > 300, "the load runs")
        assert outcomes.keys() == {"done"}
        old = sentinel.primary
        if how == "killed":
            await asyncio.to_thread(old.kill)
            new = await asyncio.to_thread(sentinel.wait_for_failover, old)
        else:
            new = await asyncio.to_thread(sentinel.failover)
        done = outcomes["done"]
        await until(lambda: outcomes["done"] > done + 300, "service again")
        refused = outcomes["refused"] + outcomes["unknown"]
        done = outcomes["done"]
        await until(lambda: outcomes["done"] > done + 300, "it goes on")
        assert outcomes["refused"] + outcomes["unknown"] == refused
        over.set()
        await asyncio.gather(*tasks)
        async with RedisProvider(new.url) as direct:
            counted = int(await direct.execute("GET", "n"))
        # What the old primary confirmed until the sentinel took its role away is lost: Redis
        # replicates asynchronously. What is counted twice would be our fault.
        assert 600 <= counted <= outcomes["done"] + outcomes["unknown"]
    assert asyncio.all_tasks() == {asyncio.current_task()}
