"""What every rate limiter backend promises: quotas, refusals, time."""

import asyncio
import math
from typing import Any

from grelmicro.resilience import (
    FixedWindowConfig,
    RateLimitConfig,
    RateLimiterBackend,
    RateLimitResult,
    SlidingWindowConfig,
    TokenBucketConfig,
)
from grelmicro.testing.conformance._kit import clause, later, now, promise, same
from grelmicro.testing.conformance.cache import HARD_KEYS

__all__ = ["HOURLY", "take"]

HOURLY = (
    TokenBucketConfig(capacity=3, refill_rate=3 / 3600),
    SlidingWindowConfig(limit=3, window=5000),
    FixedWindowConfig(limit=3, window=3600),
)
"""Three permits that do not come back during a test, by each algorithm.

A sliding window is a bucket: with equal numbers the two may be one quota.
"""

QUICK = (
    TokenBucketConfig(capacity=2, refill_rate=4),
    SlidingWindowConfig(limit=2, window=0.5),
    FixedWindowConfig(limit=2, window=0.4),
)
"""Two permits that come back soon."""


async def take(
    limits: RateLimiterBackend, config: RateLimitConfig, key: str, cost: int = 1
) -> RateLimitResult:
    """Ask for permits; the answer, which is what it should be at any time.

    Raises:
        BrokenPromiseError: It contradicts itself.
    """
    result = await limits.bind(config).acquire(key=key, cost=cost)
    check(result, config)
    return result


def check(result: Any, config: RateLimitConfig) -> None:
    """See that an answer is one, and does not contradict itself."""
    promise(isinstance(result, RateLimitResult), f"a RateLimitResult, and not {result!r}")
    promise(type(result.allowed) is bool, f"allowed is a bool, and not {result.allowed!r}")
    same(result.limit, config.limit, "the limit of an answer")
    promise(
        type(result.remaining) is int and 0 <= result.remaining <= config.limit,
        f"remaining is a whole number from 0 to {config.limit}, and not {result.remaining!r}",
    )
    for name, seconds in (("retry_after", result.retry_after), ("reset_after", result.reset_after)):
        promise(math.isfinite(seconds) and seconds >= 0, f"{name} is {seconds!r}")
    promise(bool(result.retry_after) is not result.allowed, f"{result} says when to try again")


@clause("ratelimiter.acquire.limits")
async def acquire_limits(limits: RateLimiterBackend) -> None:
    """A full quota is let through at once, and nothing more.

    That is what a limit is. Take a permit in the step that looks whether there is one. Count what
    is left after the decision.
    """
    for config in HOURLY:
        found = [await take(limits, config, "k") for _ in range(5)]
        same([each.allowed for each in found], [True] * 3 + [False] * 2, f"decisions of {config}")
        same([each.remaining for each in found], [2, 1, 0, 0, 0], f"what remains of {config}")


@clause("ratelimiter.acquire.one_for_each_permit")
async def acquire_one_for_each_permit(limits: RateLimiterBackend) -> None:
    """Of many that ask at the same time, as many are let through as there are permits.

    A check and a write that others can come between let more through. Use one statement or script.
    Decide about those that travel together one after the other.
    """
    for config in HOURLY:
        for turn in range(5):
            asked = (take(limits, config, f"k{turn}") for _ in range(40))
            allowed = [each for each in await asyncio.gather(*asked) if each.allowed]
            same(len(allowed), 3, f"how many of 40 tasks were let through by {config}")
            remaining = sorted(each.remaining for each in allowed)
            same(remaining, [0, 1, 2], f"what remained after each of {config}")


@clause("ratelimiter.acquire.costs")
async def acquire_costs(limits: RateLimiterBackend) -> None:
    """A call takes as many permits as it costs, all or none.

    A part of them would be lost. What is refused takes nothing, so that a cheaper call may still be
    let through.
    """
    for config in HOURLY:
        same((await take(limits, config, "k", 2)).allowed, True, f"2 of 3 by {config}")
        refused = await take(limits, config, "k", 2)
        same((refused.allowed, refused.remaining), (False, 1), f"2 of the 1 left by {config}")
        same((await take(limits, config, "k", 1)).allowed, True, f"1 of the 1 left by {config}")
        same((await take(limits, config, "k", 1)).allowed, False, f"1 of none by {config}")


@clause("ratelimiter.acquire.comes_back", slow=True)
async def acquire_comes_back(limits: RateLimiterBackend) -> None:
    """What is refused is told when to try again: before that it is refused, and then let through.

    Clients sleep for as long as they are told. Go by the server's clock, in whole microseconds.
    """
    for config in QUICK:
        while (last := await take(limits, config, "k")).allowed:
            pass
        told, asked = last.retry_after, now()
        promise(0 < told <= 0.5, f"retry_after of {config} is {told:.3f}")
        await later(told * 0.8)
        early = await take(limits, config, "k")
        if early.allowed:
            promise(now() - asked > told * 0.95, f"{config} let somebody through too early")
            continue
        await later(max(0.0, told - (now() - asked)) + 0.03)
        same((await take(limits, config, "k")).allowed, True, f"after retry_after of {config}")


@clause("ratelimiter.acquire.never_over", slow=True)
async def acquire_never_over(limits: RateLimiterBackend) -> None:
    """Over any time, no more is let through than a full quota and what came back meanwhile.

    That is the rate which what is behind it was built for. Do not count from the client's clock,
    nor in numbers that lose a fraction with every call. A time to live of 0 makes a limiter that
    limits nothing.
    """
    config = TokenBucketConfig(capacity=4, refill_rate=50)
    started, allowed, least = now(), 0, 4.0
    while now() - started < 0.5:
        found = await asyncio.gather(*(take(limits, config, "k") for _ in range(20)))
        allowed += sum(each.allowed for each in found)
        answered = now()
        await later(0.01)
        least += min(4, 50 * (now() - answered))  # while nobody asked; a full bucket fills no more
    most = 4 + 50 * (now() - started) + 1
    promise(allowed <= most, f"{allowed} were let through, and at most {most:.0f} may be")
    promise(allowed > least - 5, f"{allowed} were let through, and at least {least:.0f} may be")


@clause("ratelimiter.acquire.remains")
async def acquire_remains(limits: RateLimiterBackend) -> None:
    """What remains never rises while nothing comes back, whoever asks how.

    Clients show it to people. Report what is left after the decision, rounded down.
    """
    for config in HOURLY:
        found = []
        for cost in (1, 2, 3, 1, 1, 1):
            found.append((await take(limits, config, "k", cost)).remaining)
            found.append((await limits.bind(config).peek(key="k", cost=1)).remaining)
        same(found, sorted(found, reverse=True), f"what remains of {config}, time after time")


@clause("ratelimiter.peek.takes_nothing")
async def peek_takes_nothing(limits: RateLimiterBackend) -> None:
    """`peek` answers as `acquire` would, and takes nothing.

    Dashboards look. A look must not create what is looked at, nor prolong it.
    """
    for config in HOURLY:
        strategy = limits.bind(config)
        for left in (3, 2, 1):
            for _ in range(3):
                seen = await strategy.peek(key="k", cost=1)
                check(seen, config)
                same((seen.allowed, seen.remaining), (True, left), f"a look at {config}")
            too_much = await strategy.peek(key="k", cost=3)
            same(too_much.allowed, left == 3, f"a look at all 3 of {config} with {left} left")
            await take(limits, config, "k")
        seen = await strategy.peek(key="k", cost=1)
        check(seen, config)
        same((seen.allowed, seen.remaining), (False, 0), f"a look at {config} when all is taken")


@clause("ratelimiter.reset.gives_all")
async def reset_gives_all(limits: RateLimiterBackend) -> None:
    """`reset` gives a key its full quota, and no other key anything.

    Support does that for a customer. An absent key is no error.
    """
    for config in HOURLY:
        strategy = limits.bind(config)
        await strategy.reset(key="k")  # of what was never used
        for key in ("k", "k2"):
            await take(limits, config, key, 3)
        await strategy.reset(key="k")
        same((await strategy.peek(key="k", cost=3)).allowed, True, f"after reset of {config}")
        same((await strategy.peek(key="k2", cost=1)).allowed, False, f"another key of {config}")


@clause("ratelimiter.keys.apart")
async def keys_apart(limits: RateLimiterBackend) -> None:
    """Every key has a quota of its own: any script, 10 kB, glob characters, colons.

    Keys that meet let one customer use up another's quota. Do not trim, fold, cut or hash keys to a
    few bits. Store them whole, or with a digest of all of them.
    """
    config = HOURLY[0]
    for key in HARD_KEYS:
        found = await take(limits, config, key, 3)
        same(found.allowed, True, f"the full quota of {key[:20]!r}")
    for key in HARD_KEYS:
        same((await take(limits, config, key)).allowed, False, f"more of {key[:20]!r}")


@clause("ratelimiter.bind.shares")
async def bind_shares(limits: RateLimiterBackend) -> None:
    """Strategies of equal configurations share their quotas; those of others have their own.

    A limiter is bound anew with every deploy. Name what is stored by the numbers of the
    configuration, whatever object carries them.
    """
    await take(limits, TokenBucketConfig(capacity=3, refill_rate=1e-3), "k", 3)
    same_again = TokenBucketConfig(capacity=3, refill_rate=1e-3, fail_open=True)
    same((await take(limits, same_again, "k")).allowed, False, "an equal configuration")
    for config in (TokenBucketConfig(capacity=4, refill_rate=1e-3), *HOURLY[1:]):
        same((await take(limits, config, "k", 3)).allowed, True, f"{config}, which is another")


@clause("ratelimiter.window.ends", slow=True)
async def window_ends(limits: RateLimiterBackend) -> None:
    """A fixed window begins with its first permit, and ends as a whole.

    All its permits come back at its end. Those that ask in between do not prolong it.
    """
    config = FixedWindowConfig(limit=3, window=0.4)
    first = await take(limits, config, "k")
    started = now()
    promise(0 < first.reset_after <= 0.4, f"reset_after of a new window is {first.reset_after}")
    await later(0.15)
    for _ in range(3):
        await take(limits, config, "k")
    await later(max(0.0, started + 0.4 - now()) + 0.1)
    found = [(await take(limits, config, "k")).allowed for _ in range(4)]
    same(found, [True, True, True, False], "a new window")


@clause("ratelimiter.numbers.extreme")
async def numbers_extreme(limits: RateLimiterBackend) -> None:
    """The smallest and the largest settings are decided rightly.

    Numbers above 2**53 lose their last digits in a double, and one that is rounded to 0 divides by
    it. Count in whole numbers that have room.
    """
    cases: tuple[tuple[RateLimitConfig, int], ...] = (
        (TokenBucketConfig(capacity=1, refill_rate=1 / 86_400), 1),
        (TokenBucketConfig(capacity=10**9, refill_rate=1e-2 * 10**9), 10**9),
        (TokenBucketConfig(capacity=10**9, refill_rate=1e3), 10**9),
        (SlidingWindowConfig(limit=7, window=3e8), 7),
        (SlidingWindowConfig(limit=10**9, window=3600), 10**9),
        (FixedWindowConfig(limit=10**9, window=3e8), 10**9),
    )
    for config, full in cases:
        found = await take(limits, config, "k", full)
        same((found.allowed, found.remaining), (True, 0), f"all of {config}")
        if config.limit < 10:
            same((await take(limits, config, "k")).allowed, False, f"more of {config}")
