"""Callers that leave, and providers that close, at every stage of a command."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from typing import Any, cast

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from grelmicro.providers import _redis_connection
from grelmicro.providers.redis import OutcomeUnknownError, RedisProvider
from grelmicro.testing.proxy import FaultProxy

Until = Callable[[Callable[[], object], str], Any]
Tasks = list["asyncio.Task[Any]"]

STAGES = [
    "connecting", "greeting", "waiting for a place", "not yet written", "in flight", "together",
]  # fmt: skip
NEVER_WRITTEN = STAGES[:3]
ROOM = 4
CALLERS = 20


def our_tasks() -> Tasks:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    return [task for task in tasks if "FaultProxy" not in repr(task)]


class Scene:
    """Callers that overwrite keys and read what was there: each key's value begins with its name.

    Args:
        proxy: What is between the provider and its server.
        url: The server.
        prefix: What keys begin with.
        other: Another client.
        until: Waits for something.
    """

    def __init__(self, proxy: FaultProxy, url: str, prefix: str, other: Any, until: Until) -> None:
        self.proxy, self.other, self.until = proxy, other, until
        self.provider = RedisProvider(proxy.url_for(url), connections=1, timeout=2)
        self.keys = [f"{prefix}{number}" for number in range(CALLERS)]
        other.mset({key: key for key in self.keys})

    @property
    def link(self) -> Any:
        return cast("Any", self.provider._door)._route._link

    async def overwrite(self, key: str) -> bytes:
        return cast("bytes", await self.provider.execute("SET", key, key + "!", "GET"))

    async def overwrite_all(self) -> list[bytes]:
        return await self.provider.execute_many(
            [("SET", key, key + "!", "GET") for key in self.keys]
        )

    def written(self) -> list[str]:
        """The keys that were overwritten."""
        values = self.other.mget(self.keys)
        return [key for key, value in zip(self.keys, values, strict=True) if value != key.encode()]

    async def at(self, stage: str) -> Tasks:
        """Start all callers, and stop when they are at a stage."""
        if stage == "connecting":
            self.proxy.refuse()
        elif stage == "greeting":
            self.proxy.stall()
        else:
            await self.provider.ping()
            self.proxy.stall()
        work = [self.overwrite_all()] if stage == "together" else map(self.overwrite, self.keys)
        tasks: Tasks = [asyncio.create_task(each) for each in work]
        await asyncio.sleep(0)  # they have begun; nothing is written before the next iteration
        await self._arrived(stage)
        return tasks

    async def _arrived(self, stage: str) -> None:
        if stage in ("connecting", "greeting"):
            assert len(self.link._waiters) == CALLERS
            if stage == "greeting":
                await self.until(lambda: self.proxy._links, "there is a socket")
        elif stage == "not yet written":
            (connection,) = self.link._connections
            assert len(connection._unwritten) == CALLERS
        elif stage == "waiting for a place":
            assert len(self.link._waiters) == CALLERS - ROOM
        else:
            await self.until(lambda: len(self.written()) == CALLERS, "the server has done it")


@pytest.fixture
def scene(
    fault_proxy: FaultProxy,
    redis_url: str,
    redis_prefix: str,
    other: Any,
    until: Until,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[FaultProxy], Scene]:
    if request.node.callspec.params["stage"] == "waiting for a place":
        monkeypatch.setattr(_redis_connection, "_IN_FLIGHT", ROOM)
    return lambda proxy: Scene(proxy, redis_url, redis_prefix, other, until)


@pytest.mark.parametrize("stage", STAGES)
async def test_leaving(
    stage: str,
    scene: Callable[[FaultProxy], Scene],
    fault_proxy: FaultProxy,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with fault_proxy as proxy, asyncio.timeout(20):
        it = scene(proxy)
        async with it.provider:
            tasks = await it.at(stage)
            leaving = tasks[::2]
            for task in leaving:
                task.cancel()
            outcomes = await asyncio.gather(*leaving, return_exceptions=True)
            assert {type(each) for each in outcomes} == {asyncio.CancelledError}
            proxy.heal()
            assert await asyncio.gather(*tasks[1::2]) == [
                key.encode() for key in it.keys[1 : len(tasks) : 2]
            ]
            values = await asyncio.gather(*(it.provider.execute("GET", key) for key in it.keys))
            assert all(
                value.rstrip(b"!") == key.encode()
                for key, value in zip(it.keys, values, strict=True)
            )
            never = set(it.keys[::2]) - ({*it.keys[:ROOM]} if "place" in stage else set())
            if stage in NEVER_WRITTEN:
                assert not never & {*it.written()}
        assert our_tasks() == []
    assert caplog.records == []


@pytest.mark.parametrize("stage", STAGES)
async def test_closing(
    stage: str,
    scene: Callable[[FaultProxy], Scene],
    fault_proxy: FaultProxy,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with fault_proxy as proxy, asyncio.timeout(20):
        it = scene(proxy)
        await it.provider.__aenter__()
        tasks = await it.at(stage)
        started = asyncio.get_running_loop().time()
        await it.provider.__aexit__(None, None, None)
        assert asyncio.get_running_loop().time() - started < it.provider.timeout + 5
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(each, TimeoutError | RedisConnectionError) for each in outcomes)
        assert our_tasks() == []
        if stage in NEVER_WRITTEN[:2]:
            assert it.written() == []
    assert caplog.records == []


@pytest.mark.parametrize("stage", STAGES)
async def test_closing_when_all_is_well_loses_nothing(
    stage: str, scene: Callable[[FaultProxy], Scene], fault_proxy: FaultProxy
) -> None:
    async with fault_proxy as proxy, asyncio.timeout(20):
        it = scene(proxy)
        async with it.provider:
            tasks = await it.at(stage)
            proxy.heal()
        names = [key.encode() for key in it.keys]
        assert await asyncio.gather(*tasks) == ([names] if stage == "together" else names)
        assert it.written() == it.keys
        assert our_tasks() == []


@pytest.mark.parametrize("stage", STAGES)
async def test_the_closing_itself_is_cancelled(
    stage: str, scene: Callable[[FaultProxy], Scene], fault_proxy: FaultProxy
) -> None:
    async with fault_proxy as proxy, asyncio.timeout(20):
        it = scene(proxy)
        await it.provider.__aenter__()
        tasks = await it.at(stage)
        closing = asyncio.create_task(it.provider.__aexit__(None, None, None))
        await asyncio.sleep(0)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(each, TimeoutError | RedisConnectionError) for each in outcomes)
        assert our_tasks() == []


# Many of them, in a network that misbehaves.


async def test_reads_and_writes_of_which_many_are_cancelled(
    fault_proxy: FaultProxy, redis_url: str, redis_prefix: str, other: Any
) -> None:
    chaos = random.Random(11)
    keys = [f"{redis_prefix}{number}" for number in range(200)]
    other.mset({key: f"{key}=" for key in keys})
    outcomes: Counter[str] = Counter()

    async def use(provider: RedisProvider, kind: int, key: str, more: str) -> list[Any]:
        if kind == 0:
            return [key, await provider.execute("SET", key, f"{key}={more}", "GET")]
        if kind == 1:
            return [key, *await provider.execute("MGET", key, key)]
        if kind == 2:
            commands = [("GET", key), ("ECHO", f"{key}={more}"), ("GET", key)]
            return [key, *await provider.execute_many(commands, repeatable=True)]
        return [key, await provider.execute("GET", key, repeatable=True)]

    async def caller(provider: RedisProvider, number: int) -> None:
        kind, key = number % 5, chaos.choice(keys)
        try:
            name, *values = await use(provider, kind, key, str(number))
        except asyncio.CancelledError:
            outcomes["cancelled"] += 1
        else:
            right = all(value.startswith(f"{name}=".encode()) for value in values)
            outcomes["right" if right else "wrong"] += 1

    async with fault_proxy as proxy, RedisProvider(proxy.url_for(redis_url)) as provider:
        loop = asyncio.get_running_loop()
        for wave in range(20):
            proxy.heal()
            if wave % 3 == 1:
                proxy.delay(chaos.uniform(0, 0.01))
            elif wave % 3 == 2:
                proxy.chop(chaos.randint(1_000, 9_000))
            tasks = [asyncio.create_task(caller(provider, number)) for number in range(1_000)]
            for task in tasks:
                if chaos.random() < 0.5:
                    loop.call_later(chaos.uniform(0, 0.1), task.cancel)
            await asyncio.gather(*tasks, return_exceptions=True)
        assert our_tasks() == []
    assert outcomes["wrong"] == 0
    assert outcomes["right"] > 5_000
    assert outcomes["cancelled"] > 1_000


async def test_counting_under_cuts_while_callers_leave(
    fault_proxy: FaultProxy, redis_url: str, redis_prefix: str, other: Any
) -> None:
    chaos = random.Random(13)
    outcomes: Counter[str] = Counter()
    seen: Counter[int] = Counter()
    over = asyncio.Event()
    key = redis_prefix + "n"

    async def count(provider: RedisProvider) -> None:
        while not over.is_set():
            try:
                async with asyncio.timeout(chaos.choice([0.001, 0.01, 5])):
                    seen[await provider.execute("INCR", key)] += 1
            except (OutcomeUnknownError, TimeoutError):
                outcomes["unknown"] += 1
            except RedisError:
                outcomes["not done"] += 1

    async with fault_proxy as proxy, RedisProvider(proxy.url_for(redis_url)) as provider:
        tasks = [asyncio.create_task(count(provider)) for _ in range(30)]
        for _ in range(40):
            await asyncio.sleep(chaos.uniform(0, 0.08))
            proxy.cut()
        over.set()
        await asyncio.gather(*tasks)
    assert set(seen.values()) == {1}  # no number was given twice
    assert len(seen) <= int(other.get(key)) <= len(seen) + outcomes["unknown"]
    assert len(seen) > 1_000
    assert outcomes["unknown"] > 20
