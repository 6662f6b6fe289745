"""Circuit breakers on Redis: their keys, what stays of them, clocks, clusters."""

import asyncio
from collections.abc import AsyncIterator, Callable
from time import monotonic
from typing import Any
from uuid import uuid4

import pytest

from grelmicro.providers.redis import RedisProvider
from grelmicro.resilience import (
    CircuitBreaker,
    CircuitBreakerState,
    ResilienceSettingsValidationError,
)
from grelmicro.resilience.redis import RedisCircuitBreakerAdapter
from grelmicro.testing.servers import redis_cluster

HOUR = 3_600_000


@pytest.fixture
async def provider(redis_url: str) -> AsyncIterator[RedisProvider]:
    async with RedisProvider(redis_url) as provider:
        yield provider


async def fail(breaker: CircuitBreaker) -> None:
    with pytest.raises(KeyError):
        async with breaker:
            raise KeyError


async def until(condition: Callable[[], object]) -> None:
    started = monotonic()
    while not condition():
        assert monotonic() - started < 10, "nothing came of it"
        await asyncio.sleep(0.005)


async def settled(backend: Any) -> None:
    await until(lambda: not backend._fleet._pushers)


async def test_a_breaker_is_one_key_that_ends_unless_it_is_forced(
    provider: RedisProvider, redis_prefix: str
) -> None:
    async with provider.breaker(prefix=redis_prefix) as backend:
        breaker = CircuitBreaker("a *?:b", reset_timeout=60, backend=backend)
        key = f"{redis_prefix}breaker:a *?:b"
        async with breaker:
            pass
        await settled(backend)
        assert await provider.execute("EXISTS", key) == 0  # nothing to say
        await fail(breaker)
        await settled(backend)
        assert HOUR < await provider.execute("PTTL", key) <= HOUR + 60_000
        assert await provider.execute("HGET", key, "e") == b"1"
        await breaker.transition_to_forced_open()
        assert await provider.execute("PTTL", key) == -1
        await breaker.transition_to_closed()
        assert 0 < await provider.execute("PTTL", key) <= HOUR + 60_000
        keys = [name async for names in provider.scan(redis_prefix) for name in names]
        assert keys == [key.encode()]


async def test_a_clock_that_was_set_back_keeps_nobody_out_for_longer(
    provider: RedisProvider, redis_prefix: str
) -> None:
    async with provider.breaker(prefix=redis_prefix, permit_lease=1) as backend:
        breaker = CircuitBreaker("b", reset_timeout=0.3, success_threshold=1, backend=backend)
        await breaker.transition_to_open()
        key = f"{redis_prefix}breaker:b"
        later = int(await provider.execute("HGET", key, "u")) + 3_600_000_000
        await provider.execute("HSET", key, "u", later, "p:somebodys", later)
        other = CircuitBreaker("b", reset_timeout=0.3, success_threshold=1, backend=backend)
        await asyncio.sleep(0.4)
        await provider.execute("HSET", key, "u", later)  # as the server sees it from now on
        async with asyncio.timeout(10):
            while other.state is not CircuitBreakerState.CLOSED:
                try:
                    async with other:
                        pass
                except Exception:
                    await asyncio.sleep(0.05)


async def test_a_lost_subscription_loses_no_trip(
    provider: RedisProvider, redis_url: str, redis_prefix: str
) -> None:
    async with (
        RedisProvider(redis_url) as other,
        provider.breaker(prefix=redis_prefix) as one,
        other.breaker(prefix=redis_prefix) as two,
    ):
        breakers = [CircuitBreaker("b", backend=each) for each in (one, two)]
        await breakers[0].transition_to_forced_closed()
        await until(lambda: breakers[1].state is CircuitBreakerState.FORCED_CLOSED)
        await provider.execute("CLIENT", "KILL", "TYPE", "pubsub")
        await breakers[0].transition_to_forced_open()
        await until(lambda: breakers[1].state is CircuitBreakerState.FORCED_OPEN)


async def test_a_cluster_will_do() -> None:
    prefix = f"{uuid4().hex}:"
    with redis_cluster() as cluster:
        one, two = (RedisProvider(cluster.url) for _ in range(2))
        async with one, two, one.breaker(prefix=prefix) as h, two.breaker(prefix=prefix) as t:
            for name in ("a", "b", "{c}d"):
                here, there = (CircuitBreaker(name, error_threshold=1, backend=b) for b in (h, t))
                assert there.state is CircuitBreakerState.CLOSED
                await fail(here)
                await until(lambda b=there: b.metrics().state is CircuitBreakerState.OPEN)  # type: ignore[misc]  # bound


@pytest.mark.parametrize("lease", [0, 0.01, -1, float("nan"), float("inf"), True, "1"])
def test_a_lease_is_a_time(lease: Any) -> None:
    with pytest.raises(ResilienceSettingsValidationError, match=r"^permit_lease: "):
        RedisCircuitBreakerAdapter(provider=RedisProvider("redis://localhost"), permit_lease=lease)
