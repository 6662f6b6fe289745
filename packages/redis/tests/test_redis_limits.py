"""Rate limits on a real Redis: round trips, keys that disappear, clusters, dying servers."""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

import pytest
from redis.asyncio import Redis

from grelmicro import Grelmicro
from grelmicro.providers.redis import RedisProvider
from grelmicro.resilience import RateLimit, RateLimiter, ResilienceError
from grelmicro.resilience.redis import RedisRateLimiterAdapter
from grelmicro.testing.servers import RedisServer, redis_cluster


@pytest.fixture
async def backend(provider: RedisProvider, redis_prefix: str) -> RedisRateLimiterAdapter:
    return provider.ratelimiter(prefix=redis_prefix)


def hourly(limit: int, backend: Any = None, *, fail_open: bool = False) -> RateLimiter:
    return RateLimiter.sliding_window(
        "api", limit=limit, window=3600, backend=backend, fail_open=fail_open
    )


async def test_every_way_to_the_server_decides_alike(backend: RedisRateLimiterAdapter) -> None:
    for limiter in (
        hourly(3, backend),
        RateLimiter.fixed_window("api", limit=3, window=3600, backend=backend),
    ):
        found = await asyncio.gather(*(limiter.acquire(key="k") for _ in range(5)))
        decided = [(result.allowed, result.remaining) for result in found]
        assert sorted(decided, reverse=True) == [  # a pool's connections may overtake each other
            (True, 2),
            (True, 1),
            (True, 0),
            (False, 0),
            (False, 0),
        ]
        assert 0 < (await limiter.peek(key="k")).retry_after <= 3600
        await limiter.reset(key="k")
        assert (await limiter.peek(key="k", cost=3)) == (True, 3, 3, 0.0, 0.0)


async def test_a_client_that_decodes_will_do(redis_url: str, redis_prefix: str) -> None:
    client = Redis.from_url(redis_url, decode_responses=True)
    async with RedisProvider.from_client(client, own=True) as provider:
        limiter = hourly(1, provider.ratelimiter(prefix=redis_prefix))
        assert [bool(await limiter.acquire(key="é")) for _ in range(2)] == [True, False]


async def test_a_decision_is_one_round_trip(
    own_redis: RedisServer, own_other: Any, calls: Callable[[Any], dict[str, int]]
) -> None:
    async with RedisProvider(own_redis.url) as provider:
        limiter = hourly(100, provider.ratelimiter())
        await limiter.acquire(key="k")  # the server does not know the script yet
        await RateLimiter.fixed_window(
            "api", limit=1, window=1, backend=provider.ratelimiter()
        ).acquire(key="k")
        before = calls(own_other)
        for _ in range(10):
            await limiter.acquire(key="k")
        await asyncio.gather(*(limiter.acquire(key=f"k{n}") for n in range(64)))
        after = calls(own_other)
    more = {name: after[name] - before.get(name, 0) for name in after if name != "info"}
    assert {name: count for name, count in more.items() if count} == {
        **dict.fromkeys(("evalsha", "time", "get", "psetex"), 74)
    }


async def test_fast_limits_are_kept_and_their_keys_disappear(
    backend: RedisRateLimiterAdapter, redis_prefix: str, other: Any
) -> None:
    """A time to live that is rounded to nothing makes a limiter that admits everything."""
    for limiter in (
        RateLimiter.token_bucket("t", capacity=4, refill_rate=10, backend=backend),
        RateLimiter.token_bucket("tt", capacity=1, refill_rate=1e6, backend=backend),
        RateLimiter.fixed_window("f", limit=4, window=0.4, backend=backend),
    ):
        started = time.monotonic()
        found = [bool(await limiter.acquire(key="k")) for _ in range(100)]
        if limiter.name != "tt":
            assert 4 <= sum(found) <= 4 + 4 + 10 * (time.monotonic() - started)
        for name in other.scan_iter(f"{redis_prefix}*"):
            left = other.pttl(name)
            assert left == -2 or 0 <= left <= 402  # -2: it is gone meanwhile; -1 would be for ever
    deadline = time.monotonic() + 20
    while there := [*other.scan_iter(f"{redis_prefix}*")]:
        assert time.monotonic() < deadline, there
        await asyncio.sleep(0.02)


async def test_keys_are_where_they_are_said_to_be(
    backend: RedisRateLimiterAdapter, redis_prefix: str, other: Any
) -> None:
    await hourly(4, backend).acquire(key="10.0.0.1")
    (name,) = other.scan_iter(f"{redis_prefix}*")
    assert name.decode().startswith(f"{redis_prefix}ratelimit:4:")
    assert name.endswith(b":api:10.0.0.1")


async def test_what_others_put_there_is_nothing_known_or_an_error(
    backend: RedisRateLimiterAdapter, redis_prefix: str, other: Any
) -> None:
    limiter = hourly(1, backend)
    await limiter.acquire(key="k")
    (name,) = other.scan_iter(f"{redis_prefix}*")
    other.set(name, "nonsense")
    assert await limiter.acquire(key="k")
    assert not await limiter.acquire(key="k")
    other.delete(name)
    other.rpush(name, "a list")
    with pytest.raises(ResilienceError, match="WRONGTYPE"):
        await limiter.acquire(key="k")


async def test_clusters_take_any_key() -> None:
    with redis_cluster() as cluster:
        async with RedisProvider(cluster.url) as provider:
            limiter = hourly(1, provider.ratelimiter(prefix="{p}:"))
            keys = [f"k{n}" for n in range(50)] + ["{a}b", "a{b}c", "{}", "{", "}{"]
            other = hourly(1, provider.ratelimiter())
            for made in (limiter, other):
                for expected in (True, False):
                    found = await asyncio.gather(*(made.acquire(key=key) for key in keys))
                    assert [bool(result) for result in found] == [expected] * len(keys)


async def test_a_dead_server_is_one_error_in_time_or_lets_through(
    own_redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "grelmicro.resilience")
    async with RedisProvider(own_redis.url, timeout=0.5) as provider:
        backend = provider.ratelimiter()
        strict, lenient = hourly(100, backend), hourly(100, backend, fail_open=True)
        assert (await strict.acquire(key="k")).remaining == 99
        own_redis.kill()
        started = time.monotonic()
        for _ in range(3):
            with pytest.raises(ResilienceError) as caught:
                await strict.acquire(key="k")
            assert caught.value.__cause__ is not None
            assert await lenient.acquire(key="k")
        assert time.monotonic() - started < 20  # six times half a second, with much to spare
        assert [record.name for record in caplog.records] == ["grelmicro.resilience"]
        own_redis.restart()
        deadline = time.monotonic() + 20
        while (await lenient.acquire(key="k")).remaining == 0:
            assert time.monotonic() < deadline
        assert "limits again" in caplog.records[-1].getMessage()


async def test_a_frozen_server_is_an_error_in_time(own_redis: RedisServer) -> None:
    async with RedisProvider(own_redis.url, timeout=0.3) as provider:
        limiter = hourly(100, provider.ratelimiter())
        await limiter.acquire(key="k")
        own_redis.pause()
        async with asyncio.timeout(20):
            calls = (limiter.acquire(key="k") for _ in range(20))
            found = await asyncio.gather(*calls, return_exceptions=True)
        own_redis.resume()
        assert {type(error) for error in found} == {ResilienceError}
        left = (await limiter.acquire(key="k")).remaining
        assert 100 - 2 - 20 <= left <= 100 - 2  # what was sent may have been done, once


async def test_wirings(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", redis_url)
    provider = RedisProvider(redis_url)
    for uses in ([provider], [provider, RateLimit(provider)], [RedisRateLimiterAdapter()]):
        limiter = hourly(10)
        for _ in range(2):
            async with Grelmicro(uses=uses) as micro:
                assert isinstance(micro.ratelimiter.backend, RedisRateLimiterAdapter)
                await limiter.reset(key="wirings")
                assert (await limiter.acquire(key="wirings")).remaining == 9
                thread = limiter.from_thread
                found = await asyncio.to_thread(thread.acquire, key="wirings")
                assert found.remaining == 8
                await limiter.reset(key="wirings")
