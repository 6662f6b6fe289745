"""The provider's one door: what happens to a command when the network or its caller goes away."""

import asyncio
import gc
import random
from collections.abc import Callable
from typing import Any

import pytest
from redis.exceptions import RedisError

from grelmicro.providers.redis import RedisProvider
from grelmicro.testing.proxy import FaultProxy
from grelmicro.testing.servers import RedisServer

Until = Callable[[Callable[[], object], str], Any]
Calls = Callable[[Any], dict[str, int]]
Connect = Callable[..., RedisProvider]


async def test_a_thousand_commands_at_a_time_on_the_defaults(
    provider: RedisProvider, redis_prefix: str
) -> None:
    numbers = await asyncio.gather(*(provider.execute("INCR", redis_prefix) for _ in range(1000)))
    assert sorted(numbers) == list(range(1, 1001))


async def test_connections_are_bounded(
    own_redis: RedisServer, own_other: Any, connect: Connect
) -> None:
    async with connect(own_redis.url, max_connections=4) as provider:
        await asyncio.gather(*(provider.execute("PING") for _ in range(200)))
        assert len(own_other.client_list()) <= 4 + 1


async def test_a_write_of_unknown_fate_is_not_repeated(
    fault_proxy: FaultProxy,
    redis_url: str,
    redis_prefix: str,
    other: Any,
    until: Until,
    connect: Connect,
) -> None:
    key = redis_prefix + "n"
    async with fault_proxy as proxy, connect(proxy.url_for(redis_url)) as provider:
        await provider.ping()
        proxy.stall()
        write = asyncio.create_task(provider.execute("INCR", key))
        await until(lambda: other.get(key) == b"1", "the server has done it")
        proxy.cut()
        proxy.heal()
        with pytest.raises((RedisError, OSError)):
            await write
        assert other.get(key) == b"1"
        assert await provider.execute("INCR", key) == 2  # and the next one goes through


async def test_a_read_is_repeated(
    fault_proxy: FaultProxy, redis_url: str, redis_prefix: str, other: Any, until: Until,
    calls: Calls, connect: Connect
) -> None:  # fmt: skip
    key = redis_prefix + "k"
    other.set(key, "value")
    async with fault_proxy as proxy, connect(proxy.url_for(redis_url)) as provider:
        await provider.ping()
        proxy.stall()
        before = calls(other).get("get", 0)
        read = asyncio.create_task(provider.execute("GET", key, repeatable=True))
        await until(lambda: calls(other).get("get", 0) > before, "the server was asked")
        proxy.cut()
        proxy.heal()
        assert await read == b"value"
        assert calls(other)["get"] == before + 2


async def test_writes_under_many_cuts_are_done_at_most_once(
    fault_proxy: FaultProxy,
    redis_url: str,
    redis_prefix: str,
    other: Any,
    until: Until,
    connect: Connect,
) -> None:
    done = failed = 0
    over = asyncio.Event()

    async def write(provider: RedisProvider) -> None:
        nonlocal done, failed
        while not over.is_set():
            try:
                await provider.execute("INCR", redis_prefix + "n")
            except (RedisError, OSError):
                failed += 1
            else:
                done += 1

    async with fault_proxy as proxy, connect(proxy.url_for(redis_url)) as provider:
        writers = [asyncio.create_task(write(provider)) for _ in range(10)]
        for _ in range(20):
            await asyncio.sleep(random.uniform(0, 0.1))
            proxy.cut()
        over.set()
        await asyncio.gather(*writers)
    counted = int(other.get(redis_prefix + "n"))
    assert done <= counted <= done + failed
    assert done > 50
    assert failed > 5


async def test_cancelled_callers_leave_no_connection_out_of_step(
    fault_proxy: FaultProxy, redis_url: str, redis_prefix: str, other: Any, connect: Connect
) -> None:
    keys = [f"{redis_prefix}{number}" for number in range(50)]
    other.mset({key: key for key in keys})
    answers = cancelled = 0

    async def ask(provider: RedisProvider, key: str) -> None:
        nonlocal answers, cancelled
        try:
            answer = await provider.execute("GET", key, repeatable=True)
        except asyncio.CancelledError:
            cancelled += 1
        else:
            answers += 1
            assert answer == key.encode()

    async with fault_proxy as proxy:
        proxy.delay(0.002)
        before = asyncio.all_tasks()
        async with connect(proxy.url_for(redis_url), max_connections=8) as provider:
            loop = asyncio.get_running_loop()
            for _ in range(10):
                tasks = [asyncio.create_task(ask(provider, key)) for key in keys]
                for task in random.sample(tasks, 30):
                    loop.call_later(random.uniform(0, 0.01), task.cancel)
                await asyncio.gather(*tasks, return_exceptions=False)
            for key in keys:
                assert await provider.execute("GET", key) == key.encode()
        left = {task for task in asyncio.all_tasks() - before if "FaultProxy" not in repr(task)}
        assert not left
    assert answers > 100
    assert cancelled > 30


async def test_a_command_whose_caller_was_cancelled_is_seen_to_its_end(
    fault_proxy: FaultProxy, redis_url: str, redis_prefix: str, other: Any, connect: Connect
) -> None:
    async with fault_proxy as proxy:
        async with connect(proxy.url_for(redis_url), max_connections=1) as provider:
            await provider.ping()
            proxy.delay(0.02)
            write = asyncio.create_task(provider.execute("SET", redis_prefix + "k", "v"))
            await asyncio.sleep(0)
            write.cancel()
            with pytest.raises(asyncio.CancelledError):
                await write
            assert await provider.execute("GET", redis_prefix + "k") == b"v"
        assert other.get(redis_prefix + "k") == b"v"


async def test_the_failure_of_a_command_whose_caller_was_cancelled_is_nobodys_news(
    fault_proxy: FaultProxy, redis_url: str, caplog: pytest.LogCaptureFixture, connect: Connect
) -> None:
    async with fault_proxy as proxy:
        async with connect(proxy.url_for(redis_url), timeout=0.1) as provider:
            await provider.ping()
            proxy.stall()
            command = asyncio.create_task(provider.ping())
            await asyncio.sleep(0)
            command.cancel()
            with pytest.raises(asyncio.CancelledError):
                await command
        gc.collect()  # only then does asyncio tell of an exception that nobody has looked at
    assert caplog.records == []


@pytest.mark.parametrize("repeatable", [True, False])
async def test_a_frozen_server_is_a_timeout(
    own_redis: RedisServer, repeatable: bool, connect: Connect
) -> None:
    loop = asyncio.get_running_loop()
    async with connect(own_redis.url, timeout=0.3) as provider:
        await provider.ping()
        own_redis.pause()
        started = loop.time()
        try:
            async with asyncio.timeout(20):
                with pytest.raises(TimeoutError, match="did not answer in time"):
                    await provider.execute("GET", "k", repeatable=repeatable)
        finally:
            own_redis.resume()
        assert loop.time() - started < 5
        assert await provider.execute("GET", "k") is None


async def test_a_server_that_accepts_and_says_nothing_is_a_timeout(
    fault_proxy: FaultProxy, redis_url: str, connect: Connect
) -> None:
    async with fault_proxy as proxy:
        proxy.stall()
        async with asyncio.timeout(10):
            async with connect(proxy.url_for(redis_url), timeout=0.2) as provider:
                with pytest.raises(TimeoutError):
                    await provider.ping()


async def test_a_shorter_timeout_of_the_url_is_the_same_error(
    fault_proxy: FaultProxy, redis_url: str, connect: Connect
) -> None:
    async with fault_proxy as proxy:
        url = f"{proxy.url_for(redis_url)}?socket_timeout=0.05"
        async with connect(url, timeout=60) as provider:
            await provider.ping()
            proxy.stall()
            with pytest.raises(TimeoutError, match="did not answer in time"):
                await provider.execute("INCR", "n")


async def test_waiting_for_a_connection_counts_too(
    fault_proxy: FaultProxy, redis_url: str, connect: Connect
) -> None:
    async with fault_proxy as proxy:
        url = proxy.url_for(redis_url)
        async with connect(url, timeout=0.3, max_connections=1) as provider:
            await provider.ping()
            proxy.stall()
            async with asyncio.timeout(10):
                commands = (provider.ping() for _ in range(20))
                outcomes = await asyncio.gather(*commands, return_exceptions=True)
            assert {type(outcome) for outcome in outcomes} == {TimeoutError}
            proxy.heal()
            assert await provider.ping() > 0


async def test_a_refused_connection_is_waited_out(
    fault_proxy: FaultProxy, redis_url: str, redis_prefix: str, connect: Connect
) -> None:
    async with fault_proxy as proxy, connect(proxy.url_for(redis_url)) as provider:
        proxy.refuse()
        asyncio.get_running_loop().call_later(0.05, proxy.heal)
        assert await provider.execute("GET", redis_prefix + "k", repeatable=True) is None


async def test_answers_in_small_pieces(
    fault_proxy: FaultProxy, redis_url: str, redis_prefix: str, connect: Connect
) -> None:
    value = bytes(range(256)) * 4
    async with fault_proxy as proxy, connect(proxy.url_for(redis_url)) as provider:
        proxy.chop(7)
        await provider.execute("SET", redis_prefix + "k", value)
        assert await provider.execute("GET", redis_prefix + "k") == value


async def test_the_half_closed_connection_is_replaced(
    fault_proxy: FaultProxy, redis_url: str, redis_prefix: str, connect: Connect
) -> None:
    async with fault_proxy as proxy, connect(proxy.url_for(redis_url)) as provider:
        await provider.ping()
        proxy.half_close()
        assert await provider.execute("GET", redis_prefix + "k", repeatable=True) is None


async def test_a_restarted_server_is_used_without_a_manual_step(
    own_redis: RedisServer, connect: Connect
) -> None:
    async with connect(own_redis.url) as provider:
        await asyncio.gather(*(provider.ping() for _ in range(10)))
        await asyncio.to_thread(own_redis.restart)
        # Connections that the server has closed are found out before a command is sent on them.
        for number in range(10):
            assert await provider.execute("INCR", "n") == number + 1
