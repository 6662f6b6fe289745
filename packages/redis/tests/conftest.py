"""What the tests of the Redis backend share."""

import asyncio
import functools
import os
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import Any

import pytest
import redis
from redis.asyncio import Redis

from grelmicro.cache.redis import RedisCacheAdapter
from grelmicro.providers.redis import RedisProvider
from grelmicro.testing.servers import RedisServer

Until = Callable[[Callable[[], object], str], Any]


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.upper().startswith(("REDIS", "GRELMICRO_U"))]:
        monkeypatch.delenv(name)


@pytest.fixture
def other(redis_url: str) -> Iterator[Any]:
    """Another client of the session's server, which is not ours."""
    with redis.Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def own_other(own_redis: RedisServer) -> Iterator[Any]:
    """Another client of this test's own server."""
    with redis.Redis.from_url(own_redis.url) as client:
        yield client


@pytest.fixture(params=["multiplexed", "client"])
def connect(request: pytest.FixtureRequest) -> Callable[..., RedisProvider]:
    """Make a provider of one or the other way to send commands."""
    return functools.partial(RedisProvider, multiplex=request.param == "multiplexed")


@pytest.fixture(params=["multiplexed", "client", "borrowed"])
async def provider(redis_url: str, request: pytest.FixtureRequest) -> AsyncGenerator[RedisProvider]:
    """An open provider, of each of the three ways to send commands."""
    made = (
        RedisProvider.from_client(Redis.from_url(redis_url), own=True)
        if request.param == "borrowed"
        else RedisProvider(redis_url, multiplex=request.param == "multiplexed")
    )
    async with made as provider:
        yield provider


@pytest.fixture
async def adapter(provider: RedisProvider, redis_prefix: str) -> RedisCacheAdapter:
    """An adapter in a place of this test's own; never entered, as its provider is open."""
    return provider.cache(prefix=redis_prefix)


@pytest.fixture
def until() -> Until:
    """Wait on the running loop for something to become true; fail if it does not in 20 seconds."""

    async def wait(true: Callable[[], object], what: str) -> None:
        deadline = time.monotonic() + 20
        while not true():
            assert time.monotonic() < deadline, f"not in time: {what}"
            await asyncio.sleep(0.005)

    return wait


@pytest.fixture
def calls() -> Callable[[Any], dict[str, int]]:
    """How often a client's server was asked each command since it started."""

    def count(client: Any) -> dict[str, int]:
        stats = client.info("commandstats")
        return {name.removeprefix("cmdstat_"): entry["calls"] for name, entry in stats.items()}

    return count
