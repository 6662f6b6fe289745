"""Locks side by side; `locks.py --help` tells the options.

Ratios are to the floor of the same round; every client has its turn in every round.
"""

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from time import perf_counter
from typing import Any

import asyncpg
from redis.asyncio import Redis

from grelmicro.cache import TTLCache
from grelmicro.providers.postgres import PostgresProvider
from grelmicro.providers.redis import RedisProvider
from grelmicro.sync import Lock
from grelmicro.sync.memory import MemorySyncAdapter
from grelmicro.testing.servers import postgres_server, redis_server

COMPARE_AND_DELETE = """
if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) end return 0
"""

Once = Callable[[], Awaitable[object]]
MakeLock = Callable[[], AbstractAsyncContextManager[object]]


async def each(once: Once, times: int) -> float:
    """Seconds that one takes, of several one after the other."""
    started = perf_counter()
    for _ in range(times):
        await once()
    return (perf_counter() - started) / times


async def together(once: Once, callers: int, times: int) -> float:
    """Seconds that one takes, of several callers at once."""
    started = perf_counter()
    await asyncio.gather(*(each(once, times // callers) for _ in range(callers)))
    return (perf_counter() - started) / times


def entered(lock: AbstractAsyncContextManager[object]) -> Once:
    """Take and give back."""

    async def once() -> None:
        async with lock:
            pass

    return once


def show(what: str, floors: list[float], ours: list[float], target: str) -> None:
    """Print the medians, and the median of the ratios."""
    ratio = statistics.median(one / floor for one, floor in zip(ours, floors, strict=True))
    middle, floor = statistics.median(ours) * 1e6, statistics.median(floors) * 1e6
    print(f"{what:58}{middle:9.2f} us {floor:9.2f} us {ratio:7.2f}  {target}")


async def in_memory(rounds: int) -> None:
    """The cost of a lock that nobody else wants, in this process."""
    async with MemorySyncAdapter() as backend:
        lock, floor = entered(Lock("a", backend=backend)), entered(asyncio.Lock())
        floors, ours, made = [], [], []
        for _ in range(rounds):
            floors.append(await each(floor, 20_000))
            ours.append(await each(lock, 20_000))
            started = perf_counter()
            for _ in range(20_000):
                Lock("a")
            made.append((perf_counter() - started) / 20_000)
        show("memory, async with Lock / asyncio.Lock", floors, ours, "at most 5")
        show("making a Lock / entering an asyncio.Lock", floors, made, "under 3 us")
        await from_threads(backend, rounds)


async def from_threads(backend: MemorySyncAdapter, rounds: int) -> None:
    """The cost of a lock in a worker thread, beside two bare trips to the loop."""
    loop = asyncio.get_running_loop()
    lock = Lock("t", backend=backend).from_thread

    async def nothing() -> None: ...

    def trips() -> float:
        started = perf_counter()
        for _ in range(1000):
            asyncio.run_coroutine_threadsafe(nothing(), loop).result()
            asyncio.run_coroutine_threadsafe(nothing(), loop).result()
        return (perf_counter() - started) / 1000

    def locks() -> float:
        started = perf_counter()
        for _ in range(1000):
            with lock:
                pass
        return (perf_counter() - started) / 1000

    floors, ours = [], []
    with ThreadPoolExecutor(1) as threads:
        for _ in range(rounds):
            floors.append(await loop.run_in_executor(threads, trips))
            ours.append(await loop.run_in_executor(threads, locks))
    show("memory, with lock.from_thread / two bare trips", floors, ours, "at most 1.1")


async def over_redis(url: str, rounds: int) -> None:
    """The cost of a lock that nobody else wants, beside the two commands that it takes at least."""
    async with Redis.from_url(url) as client, RedisProvider(url) as provider:
        script = client.register_script(COMPARE_AND_DELETE)

        async def bare() -> None:
            await client.set("bare", "t", nx=True, px=60_000)
            await script(keys=["bare"], args=["t"])

        ours = entered(Lock("a", backend=provider.sync()))
        await bare(), await ours()
        pairs = [(await each(bare, 500), await each(ours, 500)) for _ in range(rounds)]
    floors, found = [list(column) for column in zip(*pairs, strict=True)]
    show("Redis, async with Lock / SET NX and a script", floors, found, "at most 1")


async def reads_of_postgres(url: str, rounds: int) -> None:
    """Reads of a cache beside the pool's."""
    async with PostgresProvider(url) as provider, asyncpg.create_pool(url, max_size=10) as pool:
        cache = TTLCache(ttl=3600, backend=provider.cache())
        await cache.set("k", b"v" * 100)
        query = "SELECT value FROM cache WHERE key = $1 AND expires_at > clock_timestamp()"

        async def bare() -> None:
            await pool.fetchval(query, b"\0k")

        async def ours() -> None:
            await cache.get("k")

        for callers, target in ((1, "at most 1"), (256, "at most 0.083 (12 times)")):
            await together(bare, callers, callers * 4), await together(ours, callers, callers * 4)
            pairs = [
                (await together(bare, callers, 2048), await together(ours, callers, 2048 * 4))
                for _ in range(rounds)
            ]
            floors, found = [list(column) for column in zip(*pairs, strict=True)]
            what = f"Postgres, TTLCache.get / pool.fetchval, {callers} at once"
            show(what, floors, found, target)


async def contended(make: MakeLock, tasks: int, seconds: float) -> dict[str, Any]:
    """What each of several tasks gets of one lock that it holds for a millisecond."""
    waits: list[list[float]] = [[] for _ in range(tasks)]
    end = perf_counter() + seconds

    async def work(own: list[float]) -> None:
        lock = make()
        while (asked := perf_counter()) < end:
            async with lock:
                own.append(perf_counter() - asked)
                await asyncio.sleep(0.001)

    started = perf_counter()
    await asyncio.gather(*(work(own) for own in waits))
    return {"waits": waits, "seconds": perf_counter() - started}


def summary(results: list[dict[str, Any]]) -> str:
    """Handovers a second, Jain's fairness, and the wait that 99 of 100 do not exceed."""
    waits = [own for result in results for own in result["waits"]]
    counts = [len(own) for own in waits]
    rate = sum(counts) / max(result["seconds"] for result in results)
    fairness = sum(counts) ** 2 / (len(counts) * sum(count**2 for count in counts))
    every = sorted(wait for own in waits for wait in own)
    late = every[int(len(every) * 0.99)] * 1e3
    return f"{rate:8.0f}/s   Jain {fairness:5.2f}   p99 {late:7.0f} ms   least {min(counts):5d}"


@asynccontextmanager
async def lock_of(name: str, url: str) -> AsyncGenerator[MakeLock]:
    """What makes a client's lock."""
    if name == "memory":
        async with MemorySyncAdapter() as backend:
            yield lambda: Lock("hot", backend=backend)
    elif name == "redis-py":
        async with Redis.from_url(url) as client:
            yield lambda: client.lock("hot", timeout=60, sleep=0.01)
    else:
        provider: Any = (RedisProvider if name == "Redis" else PostgresProvider)(url)
        async with provider, provider.sync() as backend:
            yield lambda: Lock("hot", backend=backend)


async def fight(name: str, url: str, tasks: int, seconds: float) -> dict[str, Any]:
    """Contend in this process."""
    async with lock_of(name, url) as make:
        async with make():
            pass
        return await contended(make, tasks, seconds)


def fight_elsewhere(name: str, url: str, processes: int, tasks: int) -> list[dict[str, Any]]:
    """Contend in several processes."""
    command = [sys.executable, "-W", "ignore", __file__, "--fight", name, url, str(tasks)]
    started = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(processes)
    ]
    for process in started:
        assert process.stdout is not None
        process.stdout.readline()
    for process in started:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    return [json.loads(process.communicate()[0]) for process in started]


def fighter(name: str, url: str, tasks: int) -> None:
    """One of several processes."""

    async def run() -> None:
        async with lock_of(name, url) as make:
            print("ready", flush=True)
            await asyncio.to_thread(sys.stdin.readline)
            print(json.dumps(await contended(make, tasks, 4.0)))

    asyncio.run(run())


def main() -> None:
    """Measure on throwaway servers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--fight", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.fight:
        name, url, tasks = options.fight
        fighter(name, url, int(tasks))
        return
    print(f"{'':58}{'ours':>12} {'floor':>12} {'ratio':>7}  target")
    asyncio.run(in_memory(options.rounds))
    with redis_server(own=True) as redis, postgres_server(own=True) as postgres:
        asyncio.run(over_redis(redis.url, options.rounds))
        asyncio.run(reads_of_postgres(postgres.url, options.rounds))
        urls = {"memory": "", "redis-py": redis.url, "Redis": redis.url, "Postgres": postgres.url}
        print("\n32 tasks, one lock, held for 1 ms (target 600/s, Jain 0.95, p99 80 ms)")
        for turn in range(2):
            for name, url in urls.items():
                result = asyncio.run(fight(name, url, 32, 4.0))
                print(f"{name:12} round {turn + 1} {summary([result])}")
        print("4 processes of 8 tasks")
        for name in ("redis-py", "Redis", "Postgres"):
            print(f"{name:12}         {summary(fight_elsewhere(name, urls[name], 4, 8))}")


if __name__ == "__main__":
    main()
