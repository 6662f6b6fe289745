"""GET and SET over one Redis, side by side; `over_redis.py --help` tells the options.

Every client has its turn in every round, with 1, 16 and 256 callers that each send one command
after the other. Ratios are to redis-py's pool in the same round.
"""

import argparse
import asyncio
import importlib
import json
import platform
import statistics
import subprocess
import sys
import tracemalloc
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from redis.asyncio import BlockingConnectionPool, Redis

from grelmicro.cache import TTLCache
from grelmicro.providers.redis import RedisProvider
from grelmicro.testing.servers import redis_server

CALLERS = {1: 1_500, 16: 4_000, 256: 8_000}
"""Commands of one measurement, by callers; five times as many for who is that much faster."""

FLOOR = "redis-py, its pool"
OURS = "TTLCache on RedisProvider"
TARGETS = {1: 1.3, 16: 7.0, 256: 15.0}
KEYS = [f"k{number}" for number in range(256)]
VALUE = b"v" * 100

Call = Callable[[str], Awaitable[Any]]


class Client(NamedTuple):
    """One client's two commands; both take a key."""

    get: Call
    set: Call
    faster: bool = False


@asynccontextmanager
async def pool(url: str) -> AsyncGenerator[Client]:
    async with Redis.from_url(url, max_connections=1000) as client:
        yield Client(client.get, lambda key: client.set(key, VALUE, px=60_000))


@asynccontextmanager
async def pool_of_16(url: str) -> AsyncGenerator[Client]:
    blocking = BlockingConnectionPool.from_url(url, max_connections=16, timeout=60)
    async with Redis.from_pool(blocking) as client:
        yield Client(client.get, lambda key: client.set(key, VALUE, px=60_000))


@asynccontextmanager
async def ours(url: str) -> AsyncGenerator[Client]:
    async with RedisProvider(url) as provider:
        cache = TTLCache(ttl=60, backend=provider.cache())
        yield Client(cache.get, lambda key: cache.set(key, VALUE), faster=True)


@asynccontextmanager
async def execute(url: str) -> AsyncGenerator[Client]:
    async with RedisProvider(url) as provider:
        yield Client(
            lambda key: provider.execute("GET", key, repeatable=True),
            lambda key: provider.execute("SET", key, VALUE, "PX", 60_000),
            faster=True,
        )


@asynccontextmanager
async def through_the_client(url: str) -> AsyncGenerator[Client]:
    async with RedisProvider(url, multiplex=False) as provider:
        cache = TTLCache(ttl=60, backend=provider.cache())
        yield Client(cache.get, lambda key: cache.set(key, VALUE))


@asynccontextmanager
async def glide(url: str) -> AsyncGenerator[Client]:
    g = importlib.import_module("glide")
    place = g.NodeAddress(urlsplit(url).hostname, urlsplit(url).port)
    client = await g.GlideClient.create(g.GlideClientConfiguration([place], request_timeout=30_000))
    life = g.ExpirySet(g.ExpiryType.MILLSEC, 60_000)
    yield Client(client.get, lambda key: client.set(key, VALUE, expiry=life))
    await client.close()


@asynccontextmanager
async def coredis(url: str) -> AsyncGenerator[Client]:
    async with importlib.import_module("coredis").Redis.from_url(url) as client:
        yield Client(client.get, lambda key: client.set(key, VALUE, px=60_000))


@asynccontextmanager
async def cashews(url: str) -> AsyncGenerator[Client]:
    cache = importlib.import_module("cashews").Cache()
    cache.setup(url, max_connections=300)
    await cache.init()
    yield Client(cache.get, lambda key: cache.set(key, VALUE, expire=60))
    await cache.close()


@asynccontextmanager
async def aiocache(url: str) -> AsyncGenerator[Client]:
    module = importlib.import_module("aiocache")
    parts = urlsplit(url)
    cache = module.Cache(
        module.Cache.REDIS,
        endpoint=parts.hostname,
        port=parts.port,
        pool_max_size=300,
        timeout=None,
        serializer=importlib.import_module("aiocache.serializers").PickleSerializer(),
    )
    yield Client(cache.get, lambda key: cache.set(key, VALUE, ttl=60))
    await cache.close()


CLIENTS = {
    FLOOR: pool,
    "redis-py, a pool of 16": pool_of_16,
    OURS: ours,
    "RedisProvider.execute": execute,
    "TTLCache, multiplex=False": through_the_client,
    "valkey-glide": glide,
    "coredis": coredis,
    "cashews": cashews,
    "aiocache": aiocache,
}


async def measure(call: Call, callers: int, commands: int) -> dict[str, float]:
    """Commands a second, and then, of a quarter as many, the times of single ones in ms."""
    times: list[float] = []

    async def plain(key: str) -> None:
        for _ in range(commands // callers):
            await call(key)

    async def timed(key: str) -> None:
        for _ in range(commands // callers // 4):
            started = perf_counter()
            await call(key)
            times.append(perf_counter() - started)

    started = perf_counter()
    await asyncio.gather(*(plain(KEYS[number]) for number in range(callers)))
    rate = commands // callers * callers / (perf_counter() - started)
    await asyncio.gather(*(timed(KEYS[number]) for number in range(callers)))
    times.sort()
    at = {
        name: times[int(len(times) * share)] * 1e3 for name, share in (("p50", 0.5), ("p99", 0.99))
    }
    return {"rate": rate, **at}


Samples = dict[tuple[str, str, int], list[dict[str, float]]]


async def opened(stack: AsyncExitStack, url: str) -> dict[str, Client]:
    """The clients that there are, each of which gives back what it was given."""
    clients = {}
    for name, open_client in CLIENTS.items():
        try:
            client = await stack.enter_async_context(open_client(url))
        except ImportError as error:
            print(f"left out: {name} ({error})", file=sys.stderr)
            continue
        for key in KEYS:
            await client.set(key)
        assert await client.get(KEYS[0]) in (VALUE, VALUE.decode()), name
        clients[name] = client
    return clients


async def rounds_of(url: str, rounds: int) -> Samples:
    """All samples, every client in its turn; who is first changes with the round."""
    samples: Samples = {}
    async with AsyncExitStack() as stack:
        clients = await opened(stack, url)
        names = [*clients]
        for number in range(rounds):
            for name in names[number % len(names) :] + names[: number % len(names)]:
                client = clients[name]
                for key in KEYS:
                    await client.set(key)  # the others' entries, which are not its own
                for callers, commands in CALLERS.items():
                    count = commands * 5 if client.faster and callers > 1 else commands
                    for kind in ("get", "set"):
                        found = await measure(getattr(client, kind), callers, count)
                        samples.setdefault((kind, name, callers), []).append(found)
    return samples


async def in_flight(url: str, commands: int = 10_000) -> float:
    """Megabytes that so many commands take, all in flight at once."""
    async with RedisProvider(url) as provider:
        await provider.ping()
        tracemalloc.start()
        before, _ = tracemalloc.get_traced_memory()
        tasks = [
            asyncio.ensure_future(provider.execute("GET", key)) for key in KEYS * (commands // 256)
        ]
        await asyncio.gather(*tasks)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    return (most - before) / 1e6


def rows(samples: Samples) -> list[dict[str, Any]]:
    """Medians, and medians of the ratios to the floor of the same round."""
    table = []
    for (kind, name, callers), found in samples.items():
        floor = samples[kind, FLOOR, callers]
        ratios = sorted(one["rate"] / base["rate"] for one, base in zip(found, floor, strict=True))
        middle = {key: statistics.median(one[key] for one in found) for key in found[0]}
        row = {"command": kind, "client": name, "callers": callers, **middle}
        table.append({**row, "ratio": statistics.median(ratios), "ratios": ratios})
    return sorted(table, key=lambda row: (row["command"], row["callers"], -row["rate"]))


def show(table: list[dict[str, Any]]) -> None:
    """Print the rows, and a mark where a target is missed."""
    heads = ("callers", "a second", "ratio", "p50 ms", "p99 ms")
    print(f"{'client':32}{heads[0]:>7} {heads[1]:>9} {heads[2]:>6} {heads[3]:>8} {heads[4]:>8}")
    for row in table:
        target = TARGETS[row["callers"]] if row["client"] == OURS else 0.0
        mark = f" (target {target}{'' if row['ratio'] >= target else ', missed'})" if target else ""
        print(
            f"{row['client']:28} {row['command']:4}{row['callers']:7} {row['rate']:9.0f}"
            f" {row['ratio']:6.2f} {row['p50']:8.2f} {row['p99']:8.2f}{mark}"
        )


def run(options: argparse.Namespace, url: str) -> dict[str, Any]:
    """Measure on one event loop."""
    factory = importlib.import_module("uvloop").new_event_loop if options.uvloop else None
    with asyncio.Runner(loop_factory=factory) as runner:
        table = rows(runner.run(rounds_of(url, options.rounds)))
        megabytes = runner.run(in_flight(url))
    print(f"\n{'uvloop' if options.uvloop else 'asyncio'}, medians of {options.rounds} rounds")
    show(table)
    print(f"10,000 commands in flight: {megabytes:.1f} MB at most (target 30)")
    return {"rows": table, "in_flight_mb": megabytes}


def main() -> None:
    """Measure on asyncio, then on uvloop in a process of its own, on the same server."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--uvloop", action="store_true", help="on uvloop alone")
    parser.add_argument("--url", help="a server; a throwaway one by default")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.url:
        found = run(options, options.url)
    else:
        with redis_server(own=True) as server:
            found = run(options, server.url)
            again = [sys.executable, "-W", "ignore", __file__, "--uvloop", "--url", server.url]
            subprocess.run([*again, "--rounds", str(options.rounds)], check=True)
    if options.json:
        conditions = {"python": platform.python_version(), "machine": platform.machine()}
        options.json.write_text(json.dumps({**conditions, **found}, indent=1))


if __name__ == "__main__":
    main()
