"""Rate limits over a network that stalls, and that is cut while many ask."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from typing import Any, NamedTuple

import pytest

from grelmicro.providers import from_url
from grelmicro.resilience import RateLimiter, RateLimitResult, ResilienceError
from grelmicro.testing.proxy import FaultProxy

PLENTY = 10**6


class Far(NamedTuple):
    """A limiter's backend behind a network of ours, and the same one without it."""

    proxy: FaultProxy
    near: Any
    far: Any


@pytest.fixture(params=["redis", "postgres"])
async def there(request: pytest.FixtureRequest) -> AsyncGenerator[Far]:
    server = request.getfixturevalue(f"{request.param}_server")
    if request.param == "redis":
        space = {"prefix": request.getfixturevalue("redis_prefix")}
    else:
        space = {"table_name": f"{request.getfixturevalue('postgres_schema')}.limits"}
    make: Any = type(from_url(server.url))
    async with AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(FaultProxy(server.host, server.port))
        near = await stack.enter_async_context(make(server.url))
        far = await stack.enter_async_context(make(proxy.url_for(server.url), timeout=0.5))
        yield Far(proxy, near.ratelimiter(**space), far.ratelimiter(**space))


def plenty(backend: Any, *, fail_open: bool = False) -> RateLimiter:
    return RateLimiter.sliding_window(
        "api", limit=PLENTY, window=1e8, backend=backend, fail_open=fail_open
    )


async def taken(there: Far, key: str) -> int:
    return PLENTY - (await plenty(there.near).peek(key=key)).remaining


async def outcomes(limiter: RateLimiter, key: str, count: int) -> tuple[int, int]:
    """How many of so many callers at once were answered, and how many got the one error."""
    calls = (limiter.acquire(key=key) for _ in range(count))
    found = await asyncio.gather(*calls, return_exceptions=True)
    answered = sum(isinstance(each, RateLimitResult) for each in found)
    failed = sum(type(each) is ResilienceError for each in found)
    assert answered + failed == count, found
    return answered, failed


async def test_a_network_that_stalls_is_an_error_in_time_and_over_afterwards(there: Far) -> None:
    limiter = plenty(there.far)
    await limiter.acquire(key="k")
    there.proxy.stall()
    async with asyncio.timeout(20):  # half a second, with much to spare
        results = await asyncio.gather(
            *(outcomes(limiter, "k", 100) for _ in range(3)),
            plenty(there.far, fail_open=True).acquire(key="k"),
        )
        with pytest.raises(ResilienceError):
            await limiter.wait(key="k")
        with pytest.raises(ResilienceError):
            await limiter.peek(key="k")
    assert results[:3] == [(0, 100)] * 3
    assert results[3]
    there.proxy.heal()
    assert await outcomes(limiter, "new", 50) == (50, 0)
    assert await taken(there, "new") == 50
    assert await taken(there, "k") <= 1 + 300 + 2  # what was sent is done once, if at all


async def test_a_connection_that_is_cut_takes_nothing_twice(there: Far) -> None:
    limiter = plenty(there.far)
    await limiter.acquire(key="warm")
    answered = failed = 0
    for turn in range(12):
        asked = asyncio.create_task(outcomes(limiter, "k", 100))
        for _ in range(turn):
            await asyncio.sleep(0)
        there.proxy.cut()
        done, lost = await asked
        answered, failed = answered + done, failed + lost
    assert failed, "nothing was cut"
    assert answered <= await taken(there, "k") <= answered + failed
    assert await outcomes(limiter, "new", 50) == (50, 0)


async def test_callers_that_leave_a_slow_network_leave_it_in_step(there: Far) -> None:
    limiter = plenty(there.far)
    await limiter.acquire(key="warm")
    there.proxy.delay(0.05)
    tasks = [asyncio.create_task(limiter.acquire(key=f"k{n}", cost=n + 1)) for n in range(90)]
    await asyncio.sleep(0.02)  # most of it is on the way
    for task in tasks[::3]:
        task.cancel()
    there.proxy.heal()
    await asyncio.wait(tasks)
    for number, task in enumerate(tasks):
        if not task.cancelled():
            assert task.result().remaining == PLENTY - number - 1
        may_be = (0, number + 1) if number % 3 == 0 else (number + 1,)
        assert await taken(there, f"k{number}") in may_be
