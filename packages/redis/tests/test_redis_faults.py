"""A server that is killed, frozen or restarted while a service goes on using it."""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from typing import Any, Self

import pytest

from grelmicro.cache import CacheError, JsonSerializer, TTLCache, cached
from grelmicro.cache.redis import RedisCacheAdapter
from grelmicro.providers.redis import RedisProvider
from grelmicro.testing.servers import RedisServer

Until = Callable[[Callable[[], object], str], Any]

TIMEOUT = 0.5
SLACK = 5.0


@pytest.fixture
async def adapter(own_redis: RedisServer) -> AsyncGenerator[RedisCacheAdapter]:
    async with RedisProvider(own_redis.url, timeout=TIMEOUT) as provider, provider.cache() as it:
        yield it


class Load:
    """Tasks that use a cache all the time, and what came of it."""

    def __init__(self, backend: RedisCacheAdapter) -> None:
        self.cache = TTLCache(backend=backend, serializer=JsonSerializer())
        self.done = 0
        self.answered = 0
        self.wrong: list[object] = []
        self.errors: Counter[type[BaseException]] = Counter()
        self.slowest = 0.0

        @cached(self.cache, key="answer:{number}")
        async def answer(number: int) -> int:
            return number * 2

        self._answer = answer
        self._tasks: list[asyncio.Task[None]] = []

    async def _hammer(self, number: int) -> None:
        loop = asyncio.get_running_loop()
        for turn in range(10**9):
            started = loop.time()
            try:
                await self.cache.set(f"{number}", turn)
                value = await self.cache.get(f"{number}")
                if value not in (turn, None):  # None: a restarted server has forgotten
                    self.wrong.append((number, turn, value))
                self.done += 1
            except Exception as error:
                self.errors[type(error)] += 1
            self.slowest = max(self.slowest, loop.time() - started)
            await asyncio.sleep(0.001)

    async def _ask(self, number: int) -> None:
        for turn in range(10**9):
            if await self._answer(turn % 7) != turn % 7 * 2:
                self.wrong.append(number)
            self.answered += 1
            await asyncio.sleep(0.001)

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._hammer(number)) for number in range(8)]
        self._tasks += [asyncio.create_task(self._ask(number)) for number in range(4)]
        return self

    async def __aexit__(self, *_: object) -> None:
        ended = [task for task in self._tasks if task.done()]
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)
        for task in ended:
            task.result()


Fault = tuple[Callable[[RedisServer], None], Callable[[RedisServer], None]]
FAULTS: dict[str, Fault] = {
    "killed": (RedisServer.kill, RedisServer.restart),
    "frozen": (RedisServer.pause, RedisServer.resume),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_an_outage_under_load(
    fault: str, adapter: RedisCacheAdapter, own_redis: RedisServer, until: Until,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    hurt, heal = FAULTS[fault]
    async with Load(adapter) as load:
        await until(lambda: load.done > 200 and load.answered > 50, "the load runs")
        assert not load.errors
        for outage in (1, 2):
            failed, answered = load.errors.total(), load.answered
            hurt(own_redis)
            await until(lambda: load.errors.total() > failed + 8, "the outage is felt")  # noqa: B023  # awaited here
            await until(lambda: load.answered > answered + 8, "the functions answer")  # noqa: B023  # awaited here
            await asyncio.to_thread(heal, own_redis)
            done, answered = load.done, load.answered
            await until(lambda: load.done > done + 100, "service again")  # noqa: B023  # awaited here
            await until(lambda: load.answered > answered + 50, "the cache serves again")  # noqa: B023  # awaited here
            assert said(caplog, "fails to read") == said(caplog, "can read again") == outage
            # A caller that has read just before may be the first to feel it, when it writes.
            assert said(caplog, "fails to write") == said(caplog, "can write again") <= outage
        errors = load.errors.copy()
        done = load.done
        await until(lambda: load.done > done + 100, "it goes on")
        assert load.errors == errors
    assert set(load.errors) == {CacheError}
    assert load.wrong == []
    assert load.slowest < 2 * TIMEOUT + SLACK


def said(caplog: pytest.LogCaptureFixture, text: str) -> int:
    warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
    return sum(text in record.message for record in warnings)


async def test_a_restart_under_load(
    adapter: RedisCacheAdapter, own_redis: RedisServer, until: Until
) -> None:
    async with Load(adapter) as load:
        for _ in range(3):
            done = load.done
            await until(lambda: load.done > done + 100, "the load runs")  # noqa: B023  # awaited here
            await asyncio.to_thread(own_redis.restart)
        done = load.done
        await until(lambda: load.done > done + 100, "service again")
    assert set(load.errors) <= {CacheError}
    assert load.wrong == []
    assert load.slowest < 2 * TIMEOUT + SLACK


@pytest.mark.parametrize("fault", FAULTS)
async def test_every_operation_is_a_cache_error_in_time(
    fault: str, adapter: RedisCacheAdapter, own_redis: RedisServer
) -> None:
    hurt, heal = FAULTS[fault]
    cache = TTLCache(backend=adapter, serializer=JsonSerializer(), name="n")

    async def make() -> int:
        return 1

    operations: dict[str, Callable[[], Any]] = {
        "get": lambda: cache.get("k"),
        "set": lambda: cache.set("k", 1),
        "delete": lambda: cache.delete("k"),
        "clear": lambda: cache.clear(),
        "touch": lambda: cache.touch("k"),
        "get_many": lambda: cache.get_many(["a", "b"]),
        "set_many": lambda: cache.set_many({"a": 1, "b": 2}),
        "delete_many": lambda: cache.delete_many(["a", "b"]),
        "get_or_set": lambda: cache.get_or_set("k", make),
        "invalidate_tags": lambda: cache.invalidate_tags("t"),
    }
    await cache.set("k", 1)
    hurt(own_redis)
    async with asyncio.timeout(TIMEOUT + SLACK):
        outcomes = await asyncio.gather(
            *(operation() for operation in operations.values()), return_exceptions=True
        )
    faults = dict(zip(operations, outcomes, strict=True))
    assert {name: type(fault) for name, fault in faults.items()} == dict.fromkeys(
        operations, CacheError
    )
    assert all(fault.__cause__ is not None for fault in faults.values())
    await asyncio.to_thread(heal, own_redis)
    for operation in operations.values():
        await operation()


POLICIES: dict[str, dict[str, Any]] = {
    "plain": {},
    "lock": {"lock": True},
    "tags": {"tags": ["t"]},
    "all": {"lock": True, "tags": ["t"], "early": True, "stale_ttl": 60, "jitter": 0.1},
}


@pytest.mark.parametrize("policy", POLICIES)
async def test_cached_calls_the_function_with_one_warning_an_outage(
    policy: str, adapter: RedisCacheAdapter, own_redis: RedisServer,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    cache = TTLCache(backend=adapter, serializer=JsonSerializer())
    runs = 0

    @cached(cache, **POLICIES[policy])
    async def load(number: int) -> int:
        nonlocal runs
        runs += 1
        return number

    assert [await load(1), await load(1)] == [1, 1]
    assert runs == 1
    own_redis.kill()
    async with asyncio.timeout(20):
        for _ in range(2):
            assert await asyncio.gather(*(load(number) for number in range(20))) == [*range(20)]
    assert runs == 41
    assert said(caplog, "fails to") == 1
    await asyncio.to_thread(own_redis.restart)
    assert [await load(2), await load(2)] == [2, 2]
    assert runs == 42
    assert said(caplog, "again for") == 1
    assert said(caplog, "") == 2


async def test_a_call_waits_for_a_frozen_server_once_and_not_at_every_step(
    adapter: RedisCacheAdapter, own_redis: RedisServer
) -> None:
    @cached(TTLCache(backend=adapter, serializer=JsonSerializer()), lock=True, tags=["t"])
    async def load() -> int:
        return 1

    own_redis.pause()
    loop = asyncio.get_running_loop()
    started = loop.time()
    assert await load() == 1
    assert loop.time() - started < TIMEOUT + SLACK
    own_redis.resume()


async def test_a_full_server_refuses_writes_and_reads_go_on(
    adapter: RedisCacheAdapter, own_other: Any, caplog: pytest.LogCaptureFixture
) -> None:
    cache = TTLCache(backend=adapter, serializer=JsonSerializer())

    @cached(cache)
    async def load(number: int) -> int:
        return number

    assert await load(1) == 1
    own_other.config_set("maxmemory", "1")
    with pytest.raises(CacheError, match="memory"):
        await cache.set("k", 1)
    assert [await load(number) for number in (1, 2, 3)] == [1, 2, 3]
    assert said(caplog, "fails to write") == said(caplog, "fails to") == 1
    own_other.config_set("maxmemory", "0")
    assert await load(4) == 4
    assert said(caplog, "can write again") == 1


async def test_an_error_says_what_and_not_with_what() -> None:
    async with RedisProvider("redis://u:s3cr3t@127.0.0.1:1", timeout=TIMEOUT) as provider:
        with pytest.raises(CacheError) as caught:
            await TTLCache(backend=provider.cache()).set("my-key", b"my-value")
    for secret in ("s3cr3t", "my-key", "my-value"):
        assert secret not in str(caught.value)
    assert "127.0.0.1" in str(caught.value)


async def test_closing_during_an_outage_ends(own_redis: RedisServer) -> None:
    async with asyncio.timeout(TIMEOUT + SLACK):
        provider = RedisProvider(own_redis.url, timeout=TIMEOUT)
        async with provider, provider.cache() as adapter:
            await adapter.set(key="k", value=b"v", ttl=60)
            own_redis.pause()
            asked = asyncio.create_task(adapter.get(key="k"))
            await asyncio.sleep(0)
        with pytest.raises(TimeoutError):
            await asked
    own_redis.resume()
    assert asyncio.all_tasks() == {asyncio.current_task()}
