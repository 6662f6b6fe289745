"""Rate limits on every backend: replicas that take what they can, clocks, random calls."""

import asyncio
import contextlib
import json
import struct
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from grelmicro.providers.memory import MemoryProvider
from grelmicro.providers.postgres import PostgresProvider
from grelmicro.providers.redis import RedisProvider
from grelmicro.resilience import (
    FixedWindowConfig,
    RateLimitConfig,
    RateLimiter,
    SlidingWindowConfig,
    TokenBucketConfig,
    _memory_limits,
)
from grelmicro.resilience._quotas import quota_of
from grelmicro.resilience.memory import MemoryRateLimiterAdapter

SERVERS = ("redis", "postgres")


class Place:
    """A backend's address, and a part of it that is the test's own."""

    def __init__(self, kind: str, request: pytest.FixtureRequest) -> None:
        self.kind = kind
        self.url: str = "memory://"
        self.adapter: dict[str, str] = {}
        if kind == "redis":
            self.url = request.getfixturevalue("redis_url")
            self.adapter = {"prefix": request.getfixturevalue("redis_prefix")}
        elif kind == "postgres":
            self.url = request.getfixturevalue("postgres_url")
            self.adapter = {"table_name": request.getfixturevalue("postgres_schema") + ".limits"}

    def provider(self) -> Any:
        made: Any = {"redis": RedisProvider, "postgres": PostgresProvider, "memory": MemoryProvider}
        return made[self.kind](self.url)

    @asynccontextmanager
    async def open(self) -> AsyncGenerator["Open"]:
        async with self.provider() as provider:
            yield Open(self, provider)


class Open:
    """The same with an open provider."""

    def __init__(self, place: Place, provider: Any) -> None:
        self.place, self.provider = place, provider
        self.backend = provider.ratelimiter(**place.adapter)

    async def pass_by(self, seconds: int) -> None:
        """Let time pass for what the server knows: by moving that into the past, or future."""
        if self.place.kind == "redis":
            async for names in self.provider.scan(self.place.adapter["prefix"]):
                for name in names:
                    await self._move_key(name, seconds)
        else:
            with contextlib.suppress(asyncpg.UndefinedTableError):  # not there yet
                table, moment = self.place.adapter["table_name"], seconds * 1_000_000
                await self.provider.execute(
                    f"UPDATE {table} SET at = at - {moment}, idle_from = idle_from - {seconds}"
                )
                await self.provider.execute(self.backend._statements.sweep)

    async def _move_key(self, name: bytes, seconds: int) -> None:
        value, left = await self.provider.execute_many([("GET", name), ("PTTL", name)])
        if value is None:  # its time was over before it could be moved
            return
        amount, at = struct.unpack("<dd", value)
        if left <= seconds * 1000:
            await self.provider.execute("DEL", name)
        else:
            moved = struct.pack("<dd", amount, at - seconds * 1_000_000)
            await self.provider.execute("SET", name, moved, "PX", left - seconds * 1000)


@pytest.fixture(params=SERVERS)
def place(request: pytest.FixtureRequest) -> Place:
    return Place(request.param, request)


@pytest.fixture(params=["memory", *SERVERS])
async def anywhere(request: pytest.FixtureRequest) -> AsyncGenerator[Open]:
    async with Place(request.param, request).open() as there:
        yield there


# Replicas.

GREEDY = """
import asyncio, json, sys, time
from grelmicro.providers import from_url
from grelmicro.resilience import RateLimiter

kind, url, adapter, number, seconds = json.loads(sys.argv[1])
real = time.time
time.time = lambda: real() + 60 * (number - 1)  # a minute too late, right, one and two too early
admitted = {}


async def take(limiter, until):
    while (before := time.monotonic()) < until:
        if await limiter.acquire(key="everybody"):
            admitted[limiter.name].append((before, time.monotonic()))


async def main():
    async with from_url(url) as provider:
        backend = provider.ratelimiter(**adapter)
        bucket, sliding = RateLimiter.token_bucket, RateLimiter.sliding_window
        limiters = [
            bucket("1.5/s", capacity=3, refill_rate=1.5, backend=backend),
            bucket("10/s", capacity=4, refill_rate=10, backend=backend),
            sliding("90/min", limit=90, window=60, backend=backend),
            sliding("7/3s", limit=7, window=3, backend=backend),
            RateLimiter.fixed_window("7 in 3s", limit=7, window=3, backend=backend),
        ]
        await limiters[0].peek(key="everybody")
        print("ready", flush=True)
        until = float(sys.stdin.readline()) + seconds
        for limiter in limiters:
            admitted[limiter.name] = []
        await asyncio.gather(
            *(take(limiters[n % len(limiters)], until) for n in range(64 * len(limiters) // 4))
        )
        print(json.dumps(admitted), flush=True)


asyncio.run(main())
"""

SECONDS = 4.0
RATES = {"1.5/s": (3, 1.5), "10/s": (4, 10), "90/min": (90, 1.5), "7/3s": (7, 7 / 3)}

Taken = dict[str, list[tuple[float, float]]]


async def greedy(place: Place) -> tuple[Taken, float]:
    """What four processes got, when they asked and when they knew; and when they began."""
    processes = [
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-W", "error", "-c", GREEDY),
            json.dumps([place.kind, place.url, place.adapter, number, SECONDS]),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        for number in range(4)
    ]
    for process in processes:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"ready\n"
    start = time.monotonic()
    outputs = await asyncio.gather(*(p.communicate(f"{start}\n".encode()) for p in processes))
    assert [process.returncode for process in processes] == [0] * 4
    taken: Taken = {}
    for output, _ in outputs:
        for name, times in json.loads(output).items():
            taken.setdefault(name, []).extend((first, second) for first, second in times)
    return {name: sorted(times) for name, times in taken.items()}, start


async def test_greedy_replicas_get_what_there_is_and_no_more(place: Place) -> None:
    taken, _ = await greedy(place)
    for name, (burst, rate) in RATES.items():
        times = taken[name]
        for first in range(len(times)):
            for last in range(first, len(times)):
                window = times[last][1] - times[first][0]  # decided between them
                assert last - first + 1 <= burst + rate * window + 1, name
        assert len(times) >= 0.95 * (burst + rate * SECONDS) - 1, name
    assert len(taken["7 in 3s"]) == 14  # two windows


# Clocks.

CONFIGS: list[RateLimitConfig] = [
    TokenBucketConfig(capacity=4, refill_rate=0.002),
    SlidingWindowConfig(limit=7, window=7000),
    SlidingWindowConfig(limit=3, window=250),
    FixedWindowConfig(limit=5, window=1500),
]

STEPS = st.lists(
    st.tuples(
        st.sampled_from("ab"),
        st.sampled_from([0, 0, 0, 1, 2, 3, 7, 40]),  # times 250 seconds
        st.integers(1, 8),
        st.booleans(),
    ),
    min_size=3,
    max_size=25,
)

SLACK = 30.0
"""Seconds that a slow machine may take for one example."""


@settings(
    max_examples=20,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # names are each example's own
)
@given(st.sampled_from(CONFIGS), STEPS)
def test_servers_decide_as_memory_does_on_a_clock_of_ours(
    place: Place, config: RateLimitConfig, steps: list[tuple[str, int, int, bool]]
) -> None:
    now = 10**12

    async def follow() -> None:
        nonlocal now
        model = RateLimiter("m", config, backend=MemoryRateLimiterAdapter())
        async with place.open() as there:
            limiter = RateLimiter(uuid4().hex, config, backend=there.backend)
            for key, units, wanted, peeks in steps:
                cost = min(wanted, config.limit)
                now += units * 250 * 10**9
                if units:
                    await there.pass_by(units * 250)
                method = "peek" if peeks else "acquire"
                expected = await getattr(model, method)(key=key, cost=cost)
                found = await getattr(limiter, method)(key=key, cost=cost)
                assert found[:3] == expected[:3]
                for seconds, model_seconds in zip(found[3:], expected[3:], strict=True):
                    assert model_seconds - SLACK <= seconds <= model_seconds + 1e-5

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_memory_limits, "monotonic_ns", lambda: now)
        asyncio.run(follow())


@pytest.mark.parametrize("back", [2, 3600, 10**7])
async def test_a_server_s_clock_that_is_set_back_blocks_nobody_for_long(
    place: Place, back: int
) -> None:
    async with place.open() as there:
        for config in (
            TokenBucketConfig(capacity=4, refill_rate=8),
            SlidingWindowConfig(limit=4, window=0.5),
            FixedWindowConfig(limit=4, window=0.5),
        ):
            limiter = RateLimiter(type(config).__name__, config, backend=there.backend)
            await limiter.acquire(key="k", cost=4)
            await limiter.acquire(key="half", cost=2)
            await there.pass_by(-back)
            assert not await limiter.acquire(key="k")
            assert (await limiter.peek(key="half")).remaining <= 2
            for key in ("k", "half"):
                result = await limiter.acquire(key=key, cost=4)
                assert not result
                assert result.retry_after <= 0.5
                assert await limiter.wait(key=key, cost=4, timeout=20)


# What is answered.


async def test_refused_before_its_time_and_admitted_after(anywhere: Open) -> None:
    for config in (
        TokenBucketConfig(capacity=4, refill_rate=4),
        SlidingWindowConfig(limit=4, window=1),
        FixedWindowConfig(limit=4, window=0.25),
    ):
        limiter = RateLimiter("api", config, backend=anywhere.backend)
        for _ in range(100):  # a slow machine is late now and then
            await limiter.reset(key="k")
            asked = time.monotonic()
            await limiter.acquire(key="k", cost=4)
            refused = await limiter.acquire(key="k")
            if time.monotonic() - asked < 0.25:
                break
        assert not refused
        assert 0 < refused.retry_after <= 0.25
        await asyncio.sleep(refused.retry_after * 0.8)
        early = await limiter.acquire(key="k")
        assert not early or time.monotonic() - asked >= 0.25  # a slow machine may be late for it
        known = time.monotonic()
        late = early if early else refused
        await asyncio.sleep(max(0.0, known + late.retry_after - time.monotonic()) + 0.001)
        assert await limiter.acquire(key="k") or early


async def test_concurrent_callers_share_one_quota(anywhere: Open) -> None:
    for config in (
        SlidingWindowConfig(limit=50, window=1e6),
        FixedWindowConfig(limit=50, window=1e6),
    ):
        limiter = RateLimiter("api", config, backend=anywhere.backend)
        costs = [1, 2, 3] * 40
        results = await asyncio.gather(*(limiter.acquire(key="k", cost=cost) for cost in costs))
        assert sum(cost for cost, result in zip(costs, results, strict=True) if result) == 50
        left = [result.remaining for result in results]
        assert left == sorted(left, reverse=True)  # in the order of asking, and never below 0
        assert left[-1] == 0


async def test_a_refused_call_takes_nothing(anywhere: Open) -> None:
    limiter = RateLimiter.token_bucket(
        "api", capacity=3, refill_rate=1e-6, backend=anywhere.backend
    )
    await limiter.acquire(key="k")
    for _ in range(20):
        assert not await limiter.acquire(key="k", cost=3)
    assert await limiter.acquire(key="k", cost=2)


KEYS = ["{a}", "{}", "a{b}c{d}", "a:b", "é\0\n", "%", "*", " ", "x" * 3000, "x" * 3000 + "y"]


async def test_keys_are_told_apart(anywhere: Open) -> None:
    limiters = [
        RateLimiter.sliding_window(name, limit=1, window=1e6, backend=anywhere.backend)
        for name in ("api", "api:a", "{api}")
    ]
    for limiter in limiters:
        for key in KEYS:
            assert await limiter.acquire(key=key), (limiter, key)
    for limiter in limiters:
        await limiter.reset(key=KEYS[0])
        found = [bool(await limiter.peek(key=key)) for key in KEYS]
        assert found == [True] + [False] * (len(KEYS) - 1)


async def test_extremes_are_exact(anywhere: Open) -> None:
    """Numbers near the edge of what a double holds."""
    for config in (
        SlidingWindowConfig(limit=10**9, window=3e8),
        TokenBucketConfig(capacity=10**9, refill_rate=3.5),
        TokenBucketConfig(capacity=1, refill_rate=1 / 3e8),
        SlidingWindowConfig(limit=999_999_937, window=2_592_000),
        TokenBucketConfig(capacity=99_999_989, refill_rate=7.7777),
        FixedWindowConfig(limit=10**9, window=3e8),
    ):
        limiter = RateLimiter("api", config, backend=anywhere.backend)
        most, quota = config.limit, quota_of(config)
        for cost in sorted({1, most // 2 or 1, most}):
            taken = cost * quota.unit if quota.rate else cost
            exact = quota.result(1, taken, quota.unit, cost)
            found = await limiter.acquire(key=f"{cost}", cost=cost)
            assert found[:4] == exact[:4]
            assert found.reset_after == pytest.approx(exact.reset_after, rel=1e-15, abs=1e-6)
        refused = await limiter.acquire(key=f"{most}", cost=most)
        assert not refused
        assert refused.retry_after == pytest.approx(refused.reset_after)


async def test_tasks_that_are_cancelled_leave_the_limiter_in_step(anywhere: Open) -> None:
    limiter = RateLimiter.sliding_window("api", limit=1000, window=1e6, backend=anywhere.backend)
    tasks = [asyncio.create_task(limiter.acquire(key="k")) for _ in range(100)]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    done = await asyncio.gather(*tasks, return_exceptions=True)
    finished = [result for result in done if not isinstance(result, BaseException)]
    assert len(finished) >= 50
    left = (await limiter.peek(key="k")).remaining
    assert 900 <= left <= 1000 - len(finished)  # what was cancelled is taken, or not
    assert (await limiter.acquire(key="k")).remaining == left - 1
