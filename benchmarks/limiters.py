"""Decisions of rate limiters, side by side; `limiters.py --help` tells the options.

Every case has its turn in every round. Ratios are to the floor of the same round: aiolimiter in
memory, a bare INCR through redis-py's pool over Redis, one pooled upsert over Postgres.
"""

import argparse
import asyncio
import gc
import importlib
import json
import platform
import statistics
import subprocess
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

CALLERS = 64
TURNS = 20
WHAT = ("memory", "redis", "postgres")
PUBLIC = "public grelmicro 0.22"
PLENTY = 10**9
KEYS = [f"k{number}" for number in range(CALLERS)]

Decide = Callable[[str], Awaitable[Any]]


class Case(NamedTuple):
    """What is measured: one decision about a key."""

    name: str
    decide: Decide
    calls: int


def hit(limiter: Any, rate: Any) -> Decide:
    """A decision of the package `limits`."""
    return lambda key: limiter.hit(rate, key)


def ours(limiter: Any) -> Decide:
    """A decision of ours."""
    acquire = limiter.acquire
    return lambda key: acquire(key=key)


def throttled(store: Any) -> Decide:
    """A decision of throttled-py."""
    module = importlib.import_module("throttled.asyncio")
    quota = module.per_sec(PLENTY, burst=PLENTY)
    return module.Throttled(using="token_bucket", quota=quota, store=store).limit  # type: ignore[no-any-return]


# Memory: nanoseconds of a decision.


async def memory_cases(stack: AsyncExitStack) -> list[Case]:
    from grelmicro import Grelmicro
    from grelmicro.resilience import RateLimiter
    from grelmicro.resilience.memory import MemoryRateLimiterAdapter

    aiolimiter = importlib.import_module("aiolimiter")
    limits = importlib.import_module("limits")
    storage = importlib.import_module("limits.aio.storage").MemoryStorage()
    fixed = importlib.import_module("limits.aio.strategies").FixedWindowRateLimiter(storage)
    stores = importlib.import_module("throttled.asyncio")
    backend = MemoryRateLimiterAdapter()
    await stack.enter_async_context(Grelmicro(uses=[backend]))
    leaky = aiolimiter.AsyncLimiter(PLENTY, 1)
    bucket, window = RateLimiter.token_bucket, RateLimiter.fixed_window
    given = bucket("given", capacity=PLENTY, refill_rate=PLENTY, backend=backend)
    ambient = bucket("ambient", capacity=PLENTY, refill_rate=PLENTY)
    fixed_window = window("fixed", limit=PLENTY, window=60, backend=backend)
    return [
        Case("aiolimiter", lambda _: leaky.acquire(), 20_000),
        Case("RateLimiter, backend given", ours(given), 20_000),
        Case("RateLimiter, open app's backend", ours(ambient), 20_000),
        Case("RateLimiter, fixed window", ours(fixed_window), 20_000),
        Case("limits.aio, fixed window", hit(fixed, limits.RateLimitItemPerSecond(PLENTY)), 5_000),
        Case("throttled-py, token bucket", throttled(stores.MemoryStore()), 5_000),
    ]


async def alone(case: Case, calls: int) -> float:
    decide = case.decide
    started = perf_counter()
    for _ in range(calls):
        await decide("k")
    return (perf_counter() - started) / calls * 1e9


async def beside(case: Case, floor: Case, worker: "Public | None") -> tuple[float, float]:
    """A case and its floor in short turns: whatever slows the machine down slows both."""
    case_time = floor_time = 0.0
    for _ in range(TURNS):
        floor_time += await alone(floor, floor.calls // TURNS)
        if worker and case.name == PUBLIC:
            case_time += worker.measure()
        else:
            case_time += await alone(case, case.calls // TURNS)
    return case_time / TURNS, floor_time / TURNS


class Public:
    """The public grelmicro 0.22 in a process of its own, as its import name is ours."""

    def __init__(self, python: str) -> None:
        self._process = subprocess.Popen(
            [python, "-W", "ignore", __file__, "--public-worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def measure(self) -> float:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=30)


async def public_worker() -> None:
    """Nanoseconds of a decision, one line for each that comes in."""
    from grelmicro.resilience import RateLimiter
    from grelmicro.resilience.memory import MemoryRateLimiterAdapter

    async with MemoryRateLimiterAdapter() as backend:
        limiter = RateLimiter.token_bucket(
            "public", capacity=PLENTY, refill_rate=PLENTY, backend=backend
        )
        case = Case(PUBLIC, ours(limiter), 0)
        await alone(case, 1_000)
        while sys.stdin.readline():
            print(await alone(case, 1_000), flush=True)


# Servers: decisions a second, of 64 callers that each ask one after the other.


@asynccontextmanager
async def redis_cases(url: str) -> AsyncGenerator[list[Case]]:
    from redis.asyncio import Redis

    from grelmicro.providers.redis import RedisProvider
    from grelmicro.resilience import RateLimiter

    limits = importlib.import_module("limits")
    storage = importlib.import_module("limits.aio.storage").RedisStorage(
        f"async+{url}", implementation="redispy"
    )
    strategies = importlib.import_module("limits.aio.strategies")
    stores = importlib.import_module("throttled.asyncio")
    rate = limits.RateLimitItemPerSecond(10**6)
    async with Redis.from_url(url, max_connections=CALLERS) as pool, RedisProvider(url) as provider:
        backend = provider.ratelimiter()
        bucket = RateLimiter.token_bucket("t", capacity=PLENTY, refill_rate=10, backend=backend)
        window = RateLimiter.fixed_window("f", limit=PLENTY, window=60, backend=backend)
        yield [
            Case("INCR through redis-py's pool", pool.incr, 4_000),
            Case("RateLimiter, token bucket", ours(bucket), 24_000),
            Case("RateLimiter, fixed window", ours(window), 24_000),
            Case(
                "limits.aio, fixed window",
                hit(strategies.FixedWindowRateLimiter(storage), rate),
                4_000,
            ),
            Case(
                "throttled-py, token bucket",
                throttled(stores.RedisStore(server=url, options={"REUSE_CONNECTION": True})),
                4_000,
            ),
        ]


UPSERT = """
INSERT INTO benchmark (key, n) VALUES ($1, 1)
ON CONFLICT (key) DO UPDATE SET n = benchmark.n + 1 RETURNING n"""


@asynccontextmanager
async def postgres_cases(url: str) -> AsyncGenerator[list[Case]]:
    import asyncpg

    from grelmicro.providers.postgres import PostgresProvider
    from grelmicro.resilience import RateLimiter

    async with asyncpg.create_pool(url, max_size=10) as pool, PostgresProvider(url) as provider:
        await pool.execute("CREATE UNLOGGED TABLE benchmark (key text PRIMARY KEY, n bigint)")
        backend = provider.ratelimiter()
        bucket = RateLimiter.token_bucket("t", capacity=PLENTY, refill_rate=10, backend=backend)
        window = RateLimiter.fixed_window("f", limit=PLENTY, window=60, backend=backend)
        yield [
            Case("one pooled upsert", lambda key: pool.fetchval(UPSERT, key), 2_500),
            Case("RateLimiter, token bucket", ours(bucket), 10_000),
            Case("RateLimiter, fixed window", ours(window), 10_000),
            Case("one pooled upsert, one key", lambda _: pool.fetchval(UPSERT, "k"), 2_500),
            Case("RateLimiter, one key", lambda _: bucket.acquire(key="one"), 10_000),
        ]


async def together(case: Case) -> float:
    decide, each = case.decide, case.calls // CALLERS

    async def caller(key: str) -> None:
        for _ in range(each):
            await decide(key)

    started = perf_counter()
    await asyncio.gather(*map(caller, KEYS))
    return each * CALLERS / (perf_counter() - started)


# Rounds and tables.

Samples = dict[str, list[float]]


async def interleaved(cases: list[Case], rounds: int) -> Samples:
    """All samples; who is first changes with the round."""
    for case in cases:
        await together(case._replace(calls=max(CALLERS, case.calls // 10)))
    gc.collect()
    samples: Samples = {case.name: [] for case in cases}
    for number in range(rounds):
        turn = number % len(cases)
        for case in cases[turn:] + cases[:turn]:
            samples[case.name].append(await together(case))
    return samples


def row(name: str, found: Sequence[float], floor: Sequence[float]) -> dict[str, Any]:
    """A case's median, and the median of its ratios to the floor beside it."""
    ratios = sorted(one / base for one, base in zip(found, floor, strict=True))
    ratio, middle = statistics.median(ratios), statistics.median(found)
    return {"case": name, "median": middle, "ratio": ratio, "ratios": ratios}


def show(title: str, unit: str, table: list[dict[str, Any]], targets: dict[str, str]) -> None:
    """Print the rows, with the targets that some of them have."""
    print(f"\n{title:36}{unit:>12} {'ratio':>6}")
    for row in table:
        target = targets.get(row["case"])
        mark = f"  (target {target})" if target else ""
        print(f"{row['case']:36}{row['median']:12.0f} {row['ratio']:6.2f}{mark}")


async def in_memory(rounds: int, public: str | None) -> list[dict[str, Any]]:
    async with AsyncExitStack() as stack:
        cases = await memory_cases(stack)
        worker = Public(public) if public else None
        if worker:
            stack.callback(worker.close)
            cases.append(Case(PUBLIC, cases[0].decide, 0))
        for case in cases:
            await alone(case, 1_000)
        gc.collect()
        gc.freeze()
        pairs: dict[str, list[tuple[float, float]]] = {case.name: [] for case in cases}
        for _ in range(rounds):
            for case in cases:
                pairs[case.name].append(await beside(case, cases[0], worker))
        return [row(name, *zip(*found, strict=True)) for name, found in pairs.items()]


async def over(cases: Any, rounds: int) -> list[dict[str, Any]]:
    async with cases as found:
        samples = await interleaved(found, rounds)
    floor = next(iter(samples.values()))
    return [row(name, times, floor) for name, times in samples.items()]


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure what is asked for."""
    from grelmicro.testing.servers import postgres_server, redis_server

    found: dict[str, Any] = {}
    if options.what in ("all", "memory"):
        table = found["memory"] = asyncio.run(in_memory(options.rounds, options.public))
        targets = {"RateLimiter, backend given": "at most 1.1"}
        show("in memory", "ns", table, targets)
    if options.what in ("all", "redis"):
        with redis_server(own=True) as redis:
            table = found["redis"] = asyncio.run(over(redis_cases(redis.url), options.rounds))
        show("Redis, 64 callers", "a second", table, {"RateLimiter, token bucket": "at least 6"})
    if options.what in ("all", "postgres"):
        with postgres_server(own=True) as server:
            cases = postgres_cases(server.url)
            table = found["postgres"] = asyncio.run(over(cases, options.rounds))
        show("Postgres, 64 callers", "a second", table, {"RateLimiter, token bucket": "at least 3"})
    return found


def main() -> None:
    """Measure, show, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="?", default="all", choices=["all", *WHAT])
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--public", help="a Python with the public grelmicro 0.22")
    parser.add_argument("--public-worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.public_worker:
        asyncio.run(public_worker())
        return
    found = run(options)
    if options.json:
        conditions = {"python": platform.python_version(), "machine": platform.machine()}
        options.json.write_text(json.dumps({**conditions, **found}, indent=1))


if __name__ == "__main__":
    main()
