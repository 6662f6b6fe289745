"""Decisions in memory against simple models, on a clock of the test's own; what is kept."""

import asyncio
import gc
import math
import sys
import threading
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grelmicro.resilience import (
    FixedWindowConfig,
    RateLimitConfig,
    RateLimiter,
    RateLimitResult,
    SlidingWindowConfig,
    TokenBucketConfig,
)
from grelmicro.resilience import _memory_limits as module
from grelmicro.resilience._quotas import Bucket, quota_of
from grelmicro.resilience.memory import MemoryRateLimiterAdapter

SECOND = 1_000_000_000


class Clock:
    """Nanoseconds that pass when the test says so."""

    def __init__(self, now: int = 5 * SECOND) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now

    def pass_by(self, seconds: float | Fraction) -> None:
        self.now += math.ceil(Fraction(seconds) * SECOND)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "monotonic_ns", clock)
    return clock


class BucketModel:
    """What was admitted since any earlier admission never exceeds burst and rate."""

    def __init__(self, limit: int, rate: Fraction) -> None:
        self.limit, self.rate = limit, rate
        self.admitted: list[tuple[Fraction, int]] = []

    def room(self, now: Fraction) -> Fraction:
        left, total = Fraction(self.limit), 0
        for then, cost in reversed(self.admitted):
            total += cost
            left = min(left, self.limit + self.rate * (now - then) - total)
        return left

    def acquire(self, now: Fraction, cost: int) -> bool:
        allowed = self.room(now) >= cost
        if allowed:
            self.admitted.append((now, cost))
        return allowed

    def retry_after(self, now: Fraction, cost: int) -> Fraction:
        return max(Fraction(0), (cost - self.room(now)) / self.rate)

    def reset_after(self, now: Fraction) -> Fraction:
        return (self.limit - self.room(now)) / self.rate


class WindowModel:
    """A count that begins anew when its window is over."""

    def __init__(self, limit: int, length: Fraction) -> None:
        self.limit, self.length = limit, length
        self.taken, self.end = 0, Fraction(0)

    def room(self, now: Fraction) -> Fraction:
        return Fraction(self.limit - self.taken if now < self.end else self.limit)

    def acquire(self, now: Fraction, cost: int) -> bool:
        allowed = self.room(now) >= cost
        if now >= self.end:
            self.taken, self.end = 0, now + self.length
        self.taken += cost if allowed else 0
        return allowed

    def retry_after(self, now: Fraction, cost: int) -> Fraction:
        return Fraction(0) if self.room(now) >= cost else self.end - now

    def reset_after(self, now: Fraction) -> Fraction:
        return self.end - now if self.room(now) < self.limit else Fraction(0)


CONFIGS: list[tuple[RateLimitConfig, Any]] = [
    (TokenBucketConfig(capacity=4, refill_rate=10), lambda: BucketModel(4, Fraction(10))),
    (TokenBucketConfig(capacity=2, refill_rate=1.5), lambda: BucketModel(2, Fraction(3, 2))),
    (TokenBucketConfig(capacity=1, refill_rate=0.1), lambda: BucketModel(1, Fraction(1, 10))),
    (SlidingWindowConfig(limit=7, window=3), lambda: BucketModel(7, Fraction(7, 3))),
    (SlidingWindowConfig(limit=90, window=60), lambda: BucketModel(90, Fraction(3, 2))),
    (FixedWindowConfig(limit=3, window=0.25), lambda: WindowModel(3, Fraction(1, 4))),
]

STEPS = st.lists(
    st.tuples(
        st.sampled_from("ab"),
        st.one_of(st.just(0), st.integers(0, 3000), st.integers(0, 100_000)),  # milliseconds
        st.integers(1, 8),
        st.booleans(),
    ),
    max_size=40,
)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(CONFIGS), STEPS)
def test_every_decision_is_that_of_the_model(
    config_and_model: Any, steps: list[tuple[str, int, int, bool]]
) -> None:
    config, make_model = config_and_model
    clock, models = Clock(), {"a": make_model(), "b": make_model()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "monotonic_ns", clock)
        limiter = RateLimiter("api", config, backend=MemoryRateLimiterAdapter())

        async def follow() -> None:
            for key, milliseconds, wanted, peeks in steps:
                clock.pass_by(Fraction(milliseconds, 1000))
                cost = min(wanted, limiter.config.limit)
                await _compare(limiter, models[key], Fraction(clock.now, SECOND), key, cost, peeks)

        asyncio.run(follow())


async def _compare(
    limiter: RateLimiter, model: Any, now: Fraction, key: str, cost: int, peeks: bool
) -> None:
    if peeks:
        expected = model.room(now) >= cost
        result = await limiter.peek(key=key, cost=cost)
    else:
        expected = model.acquire(now, cost)
        result = await limiter.acquire(key=key, cost=cost)
    assert result.allowed is expected
    assert result.remaining == math.floor(model.room(now))
    exact = Fraction(0) if expected else model.retry_after(now, cost)
    assert 0 <= Fraction(repr(result.retry_after)) - exact < Fraction(2, 10**6)  # rounded up
    assert abs(Fraction(result.reset_after) - model.reset_after(now)) < Fraction(2, 10**6)


@settings(max_examples=150, deadline=None)
@given(
    st.integers(1, 10**9),
    st.floats(1e-7, 1e12, allow_nan=False),
    st.floats(0.001, 3e8, allow_nan=False),
)
def test_whole_numbers_are_near_enough_and_fit_a_double(
    limit: int, rate: float, window: float
) -> None:
    configs: list[tuple[RateLimitConfig, float]] = [
        (SlidingWindowConfig(limit=limit, window=window), limit / window)
    ]
    if limit / rate <= 3e8:
        configs.append((TokenBucketConfig(capacity=limit, refill_rate=rate), rate))
    for config, expected in configs:
        quota = quota_of(config)
        assert isinstance(quota, Bucket)
        assert quota.rate / quota.unit * 1e6 == pytest.approx(expected, rel=1e-6)
        assert 2 * quota.full <= 2**53
        assert quota.rate <= 2**53


@pytest.mark.parametrize("config", [config for config, _ in CONFIGS], ids=str)
async def test_refused_just_before_and_admitted_just_after(
    config: RateLimitConfig, clock: Clock
) -> None:
    limiter = RateLimiter("api", config, backend=MemoryRateLimiterAdapter())
    await limiter.acquire(key="k", cost=config.limit)
    refused = await limiter.acquire(key="k")
    assert not refused
    clock.pass_by(Fraction(refused.retry_after) * Fraction(9, 10))
    assert not await limiter.acquire(key="k")
    clock.pass_by(Fraction(refused.retry_after) / 10)
    assert await limiter.acquire(key="k")


async def test_what_is_refused_takes_nothing(clock: Clock) -> None:
    limiter = RateLimiter.token_bucket(
        "api", capacity=3, refill_rate=1, backend=MemoryRateLimiterAdapter()
    )
    await limiter.acquire(key="k")
    for _ in range(100):
        assert not await limiter.acquire(key="k", cost=3)
    assert (await limiter.peek(key="k")).remaining == 2
    assert await limiter.acquire(key="k", cost=2)


async def test_a_million_calls_do_not_drift(clock: Clock) -> None:
    """At 7 in 3 s, one every 3/7 s: what is left of a nanosecond must not add up."""
    strategy = MemoryRateLimiterAdapter().bind(SlidingWindowConfig(limit=7, window=3))
    await strategy.acquire(key="k", cost=7)
    start = clock.now
    for number in range(1, 100_001):
        clock.now = start + -(-number * 3 * SECOND // 7)
        assert await strategy.acquire(key="k", cost=1), number
        assert not await strategy.acquire(key="k", cost=1), number


# What is kept.


@pytest.fixture(params=[0, 2], ids=["bucket", "window"])
def strategy(request: pytest.FixtureRequest) -> Any:
    configs = [CONFIGS[0][0], CONFIGS[1][0], CONFIGS[-1][0]]
    return MemoryRateLimiterAdapter().bind(configs[request.param])


async def test_idle_keys_are_forgotten_as_new_ones_come(strategy: Any, clock: Clock) -> None:
    for number in range(10_000):
        await strategy.acquire(key=f"k{number}", cost=1)
        clock.pass_by(0.01)  # each is idle after a quarter of a second at most
    assert len(strategy.states) < 100
    assert len(strategy._order) == len(strategy.states)


async def test_idle_keys_are_forgotten_where_no_new_ones_come(strategy: Any, clock: Clock) -> None:
    for number in range(10_000):
        await strategy.acquire(key=f"k{number}", cost=1)
    assert len(strategy.states) == 10_000
    for _ in range(25):
        clock.pass_by(1.01)
        await strategy.acquire(key="k0", cost=1)
    assert set(strategy.states) <= {"k0"}


async def test_resets_leave_nothing_behind(strategy: Any, clock: Clock) -> None:
    for _ in range(1000):
        await strategy.acquire(key="k", cost=1)
        await strategy.reset(key="k")
        await strategy.reset(key="never seen")
    assert len(strategy.states) == len(strategy._order) == 1
    assert (await strategy.peek(key="k", cost=1)).remaining == (
        await strategy.peek(key="other", cost=1)
    ).remaining


async def test_keys_in_use_are_kept(clock: Clock) -> None:
    strategy = MemoryRateLimiterAdapter().bind(TokenBucketConfig(capacity=2, refill_rate=0.001))
    for number in range(2000):
        await strategy.acquire(key=f"k{number}", cost=2)
        clock.pass_by(0.3)
    refused = [await strategy.acquire(key=f"k{number}", cost=2) for number in range(2000)]
    assert not any(refused[1400:])


# Threads.


@pytest.fixture
def switching() -> Iterator[None]:
    """Change threads as often as the interpreter can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("switching")
@pytest.mark.parametrize("locked", [False, True], ids=["gil", "no gil"])
def test_threads_take_no_more_than_there_is(locked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "has_gil", lambda: not locked)
    adapter = MemoryRateLimiterAdapter()
    taken: list[int] = []
    start = threading.Barrier(4)

    async def take(config: RateLimitConfig) -> int:
        limiter = RateLimiter("api", config, backend=adapter)
        start.wait()
        results = [await limiter.acquire(key=f"k{n % 7}") for n in range(5000)]
        return sum(map(bool, results))

    def work() -> None:
        for config in (
            SlidingWindowConfig(limit=1000, window=1e6),
            FixedWindowConfig(limit=1000, window=1e6),
        ):
            taken.append(asyncio.run(take(config)))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(taken) == 2 * 7 * 1000


@pytest.mark.parametrize("made", [SlidingWindowConfig, FixedWindowConfig])
def test_a_finalizer_that_takes_permits_comes_in_between_nowhere(made: Any) -> None:
    """Garbage is collected wherever something is made, and its finalizers are code like any."""
    config = made(limit=10**6, window=1e6)
    strategy = MemoryRateLimiterAdapter().bind(config)
    taken: list[bool] = []
    kept: list[object] = []

    class Late:
        def __init__(self) -> None:
            self.itself = self

        def __del__(self) -> None:
            taken.append(strategy.acquire_nowait("k", 1) is not None)

    async def begin() -> None:
        await strategy.acquire(key="k", cost=1)

    asyncio.run(begin())
    strategy.due[0] = 2**63  # no sweep
    threshold = gc.get_threshold()
    gc.set_threshold(1, 1000, 1000)
    try:
        for _ in range(1000):
            Late()
            kept.append((len(taken), 0))  # takes what was freed: the next tuple is made anew
            taken.append(strategy.acquire_nowait("k", 1) is not None)
    finally:
        gc.set_threshold(*threshold)
    gc.collect()
    result = asyncio.run(strategy.peek(key="k", cost=1))
    assert len(taken) == 2000
    assert all(taken)
    assert result.limit - result.remaining == 2001


async def test_limiters_of_equal_settings_share_and_others_do_not(clock: Clock) -> None:
    adapter = MemoryRateLimiterAdapter()

    def made(name: str, limit: int = 2) -> RateLimiter:
        return RateLimiter.fixed_window(name, limit=limit, window=60, backend=adapter)

    async def left(limiter: RateLimiter, key: str) -> int:
        result: RateLimitResult = await limiter.peek(key=key)
        return result.remaining

    await made("api").acquire(key="b:c")
    assert await left(made("api"), "b:c") == 1
    assert await left(made("api", limit=3), "b:c") == 3
    assert await left(made("api:b"), "c") == 2
    assert await left(made("api%3Ab"), "c") == 2
    assert await left(made("other"), "b:c") == 2
