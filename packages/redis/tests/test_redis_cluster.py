"""A real cluster: keys go to their own primaries, slots move, and primaries die."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, Self

import pytest
import redis
from redis.asyncio import RedisCluster as NativeCluster
from redis.exceptions import RedisError

from grelmicro import Grelmicro
from grelmicro.cache import TTLCache
from grelmicro.cache.redis import RedisCacheAdapter
from grelmicro.errors import OutOfContextError
from grelmicro.providers import from_url
from grelmicro.providers.redis import OutcomeUnknownError, RedisProvider, RedisScript
from grelmicro.testing.servers import RedisCluster, redis_cluster

Until = Callable[[Callable[[], object], str], Any]

KEYS = [f"key:{number}" for number in range(60)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[RedisCluster]:
    """Three primaries; slots are moved to and fro, and nobody dies."""
    with redis_cluster() as cluster:
        yield cluster


@pytest.fixture(params=["multiplexed", "client", "borrowed"])
def provider(cluster: RedisCluster, request: pytest.FixtureRequest) -> RedisProvider:
    if request.param == "borrowed":
        node = cluster.nodes[0]
        return RedisProvider.from_client(NativeCluster(node.host, node.port), own=True)
    return RedisProvider(cluster.url, multiplex=request.param == "multiplexed")


def nobodys(tasks: "set[asyncio.Task[Any]]") -> "set[asyncio.Task[Any]]":
    return tasks - {asyncio.current_task()}


async def test_keys_of_all_slots(provider: RedisProvider, cluster: RedisCluster) -> None:
    async with provider:
        cache = provider.cache(prefix="all:")
        for key in KEYS:
            await cache.set(key=key, value=key.encode(), ttl=60)
        values = await asyncio.gather(*(cache.get(key=key) for key in KEYS))
        assert values == [key.encode() for key in KEYS]
        assert len({cluster.primary_of(f"all:cache:{key}").port for key in KEYS}) == 3
    assert not nobodys(asyncio.all_tasks())


async def test_many_keys_of_many_slots(provider: RedisProvider) -> None:
    entries = {key: key.encode() for key in KEYS}
    async with provider:
        cache = provider.cache(prefix="many:")
        await cache.clear()
        assert await cache.get_many(keys=KEYS) == {}
        await cache.set_many(entries=entries, ttl=60)
        assert await cache.get_many(keys=[*KEYS, "absent"]) == entries
        await cache.delete_many(keys=KEYS[:30])
        assert set(await cache.get_many(keys=KEYS)) == {*KEYS[30:]}


async def test_clear_reaches_every_primary(provider: RedisProvider) -> None:
    async with provider:
        mine, others = provider.cache(prefix="mine:"), provider.cache(prefix="others:")
        for cache in (mine, others):
            await cache.set_many(entries=dict.fromkeys(KEYS, b"v"), ttl=60)
        await mine.clear()
        assert await mine.get_many(keys=KEYS) == {}
        assert len(await others.get_many(keys=KEYS)) == len(KEYS)


async def test_scripts_run_where_their_key_is(provider: RedisProvider) -> None:
    script = RedisScript("return redis.call('INCR', KEYS[1])")
    async with provider:
        for key in KEYS[:12]:
            await provider.execute("UNLINK", f"script:{key}")
            assert await provider.run(script, keys=[f"script:{key}"]) == 1
            assert await provider.run(script, keys=[f"script:{key}"]) == 2


async def test_keys_with_one_tag_are_in_one_slot(provider: RedisProvider) -> None:
    async with provider:
        await provider.execute("MSET", "{tag}a", "1", "{tag}b", "2")
        assert await provider.execute("MGET", "{tag}a", "{tag}b") == [b"1", b"2"]
        assert provider.together(["{tag}a", "other", "{tag}b"]) == [["{tag}a", "{tag}b"], ["other"]]


async def test_commands_without_a_key(provider: RedisProvider) -> None:
    async with provider:
        assert await provider.ping() > 0
        assert await provider.execute("ECHO", "hello") == b"hello"


async def test_odd_places_of_keys_find_their_way(cluster: RedisCluster) -> None:
    async with RedisProvider(cluster.url) as provider:
        for key in KEYS[:12]:
            stream = f"stream:{key}"
            await provider.execute("UNLINK", stream)
            await provider.execute("XADD", stream, "1-1", "field", "value")
            found = await provider.execute("XREAD", "COUNT", 1, "STREAMS", stream, "0")
            assert list(found) == [stream.encode()]
            assert await provider.execute("OBJECT", "ENCODING", stream) == b"stream"


async def test_a_whole_app_on_a_cluster(cluster: RedisCluster) -> None:
    async with Grelmicro(uses=[from_url(cluster.url)]) as micro:
        cache = TTLCache(name="app")
        await cache.set("k", b"v")
        await cache.invalidate_tags("t")
        assert await cache.get("k") == b"v"
        assert isinstance(micro.cache.backend, RedisCacheAdapter)


async def test_the_native_client_is_one_of_a_cluster(cluster: RedisCluster) -> None:
    async with RedisProvider(cluster.url) as provider:
        assert isinstance(provider.client, NativeCluster)
        await provider.client.set("native", "1")
        assert await provider.execute("GET", "native") == b"1"


async def test_a_closed_one_says_so(cluster: RedisCluster) -> None:
    with pytest.raises(OutOfContextError, match="not open"):
        await RedisProvider(cluster.url).execute("GET", "k")


def calls(cluster: RedisCluster) -> Counter[str]:
    """How often the nodes were asked each command since they started."""
    counted: Counter[str] = Counter()
    for node in cluster.nodes:
        with redis.Redis(host=node.host, port=node.port) as client:
            for name, entry in client.info("commandstats").items():
                counted[name.removeprefix("cmdstat_")] += entry["calls"]
    return counted


async def test_a_slot_that_moved_is_followed_once_and_remembered(cluster: RedisCluster) -> None:
    slot, key = cluster.slot_of("moving"), "moving"
    async with RedisProvider(cluster.url) as provider:
        await provider.execute("SET", key, "before")
        source = cluster.primary_of(slot)
        target = next(node for node in cluster.nodes if node is not source)
        await asyncio.to_thread(cluster.move_slot, slot, target)
        assert await provider.execute("GET", key) == b"before"
        before = calls(cluster)["get"]
        for _ in range(20):
            assert await provider.execute("GET", key) == b"before"
        assert calls(cluster)["get"] == before + 20
        await asyncio.to_thread(cluster.move_slot, slot, source)
        assert await provider.execute("INCRBY", "{moving}n", 2) > 0


async def test_a_slot_that_is_moving_is_asked_for_in_both_places(cluster: RedisCluster) -> None:
    slot = cluster.slot_of("{asked}")
    source = cluster.primary_of(slot)
    target = next(node for node in cluster.nodes if node is not source)
    async with RedisProvider(cluster.url) as provider:
        await provider.execute("SET", "{asked}there", "there")
        await asyncio.to_thread(cluster.begin_move, slot, target)
        await provider.execute("SET", "{asked}new", "new")  # -ASK: it is not at the source
        replies = await asyncio.gather(
            *(provider.execute("GET", f"{{asked}}{name}") for name in ("there", "new") * 20)
        )
        assert replies == [b"there", b"new"] * 20
        many = await provider.execute_many([("GET", "{asked}there"), ("GET", "{asked}new")])
        assert many == [b"there", b"new"]
        await asyncio.to_thread(cluster.end_move, slot, target)
        assert await provider.execute("MGET", "{asked}there", "{asked}new") == [b"there", b"new"]
        await asyncio.to_thread(cluster.move_slot, slot, source)


async def test_a_node_that_is_not_of_a_cluster(redis_url: str) -> None:
    url = redis_url.replace("redis://", "redis+cluster://")
    async with RedisProvider(url, timeout=2) as provider:
        with pytest.raises(RedisError, match="cluster"):
            await provider.execute("GET", "k")


async def test_nobody_there() -> None:
    async with RedisProvider("redis+cluster://u:s3cr3t@127.0.0.1:1,127.0.0.1:2", timeout=2) as p:
        with pytest.raises(RedisError) as caught:
            await p.execute("GET", "k")
    assert "s3cr3t" not in str(caught.value)
    assert not nobodys(asyncio.all_tasks())


class Load:
    """Counters that tasks raise on every slot, and what came of it."""

    def __init__(self, provider: RedisProvider) -> None:
        self._provider = provider
        self._over = asyncio.Event()
        self.done: Counter[str] = Counter()
        self.unknown: Counter[str] = Counter()
        self.refused = 0

    async def _raise(self, key: str) -> None:
        while not self._over.is_set():
            try:
                await self._provider.execute("INCR", key)
                self.done[key] += 1
            except (OutcomeUnknownError, TimeoutError):
                self.unknown[key] += 1
            except RedisError:
                self.refused += 1
            await asyncio.sleep(0.001)

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._raise(f"n:{n}")) for n in range(30)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._over.set()
        await asyncio.gather(*self._tasks)


async def test_a_primary_is_killed_under_load(
    own_redis_cluster: RedisCluster, until: Until
) -> None:
    cluster = own_redis_cluster
    async with RedisProvider(cluster.url, timeout=2) as provider, Load(provider) as load:
        await until(lambda: load.done.total() > 500, "the load runs")
        assert not load.unknown
        assert not load.refused
        victim = cluster.primary_of("n:0")
        await asyncio.to_thread(victim.kill)
        await asyncio.to_thread(cluster.failover)
        before = load.done.copy()
        await until(
            lambda: all(load.done[key] > before[key] + 5 for key in before), "service on each slot"
        )
        refused = load.refused
        await until(lambda: load.done.total() > before.total() + 1000, "it goes on")
        assert load.refused == refused
    async with RedisProvider(cluster.url) as provider:
        counted = {key: int(await provider.execute("GET", key)) for key in load.done}
    # A replica may not have had what the primary had confirmed just before it died: replication of
    # Redis is asynchronous. What it counts twice would be our fault.
    assert all(counted[key] <= load.done[key] + load.unknown[key] for key in counted)
    assert sum(counted.values()) > load.done.total() - 30 * 20
    assert not nobodys(asyncio.all_tasks())
