"""Connections that are lost without a word, at once, or while much is under way."""

import asyncio
import socket
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvloop
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from grelmicro.providers._redis_connection import Connection
from grelmicro.providers._redis_link import Link
from grelmicro.providers.redis import OutcomeUnknownError, RedisProvider, RedisScript
from grelmicro.testing.proxy import FaultProxy
from grelmicro.testing.servers import RedisServer

Until = Callable[[Callable[[], object], str], Any]

KILL_ALL = ("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")


def deafen(proxy: FaultProxy) -> None:
    """Throw away all answers on the connections of the moment, which stay open.

    Commands on them reach the server. New connections are as good as ever.
    """
    for link in proxy._links.values():
        link.deaf = True


# Connections that nothing comes back from any more, as after a fail-over of the network.


async def test_callers_with_less_patience_than_the_provider_get_away_from_a_dead_connection(
    fault_proxy: FaultProxy, redis_url: str
) -> None:
    async with (
        fault_proxy as proxy,
        RedisProvider(proxy.url_for(redis_url), timeout=0.3) as provider,
    ):
        await provider.ping()
        deafen(proxy)
        served, deadline = 0, time.monotonic() + 5
        while not served and time.monotonic() < deadline:
            try:
                async with asyncio.timeout(0.05):  # each leaves before the provider's own timeout
                    await provider.ping()
                    served += 1
            except TimeoutError:
                pass
        assert served, "everybody was sent into the void, all the time"


async def test_callers_who_wait_get_away_from_a_dead_connection(
    fault_proxy: FaultProxy, redis_url: str
) -> None:
    async with (
        fault_proxy as proxy,
        RedisProvider(proxy.url_for(redis_url), timeout=0.3) as provider,
    ):
        await provider.ping()
        deafen(proxy)
        with pytest.raises(TimeoutError):
            await provider.ping()
        assert await provider.ping() > 0


@pytest.mark.parametrize("together", [True, False])
async def test_a_write_that_timed_out_is_not_sent_again(
    together: bool, fault_proxy: FaultProxy, redis_url: str, redis_prefix: str, other: Any
) -> None:
    """A busy loop makes a write's own deadline later than that of the batch it travels in."""
    key = redis_prefix + "n"
    async with (
        fault_proxy as proxy,
        RedisProvider(proxy.url_for(redis_url), timeout=0.5) as provider,
    ):
        await provider.ping()
        deafen(proxy)

        async def write() -> Any:
            time.sleep(0.3)  # noqa: ASYNC251  # somebody computes, in the same iteration
            if together:
                return await provider.execute_many([("INCR", key)])
            return await provider.execute("INCR", key)

        first = asyncio.create_task(provider.execute("ECHO", "first"))
        second = asyncio.create_task(write())
        outcomes = await asyncio.gather(first, second, return_exceptions=True)
        assert other.get(key) == b"1"
        assert [type(outcome) for outcome in outcomes] == [TimeoutError, TimeoutError]


# Connections that end at once.


async def test_a_connection_that_is_lost_before_anybody_has_it_is_made_again() -> None:
    """The server greets and hangs up; both may be known before the task that dials goes on."""
    made: list[Connection] = []

    async def dial(changed: Callable[[Connection], None]) -> Connection:
        connection = Connection(timeout=1, changed=changed)
        made.append(connection)
        if len(made) == 1:
            connection.lose("the server closed it")
        connection.open_up()
        return connection

    link = Link(dial, most=1)
    try:
        async with asyncio.timeout(3):
            assert await link.connection() is made[1]
    finally:
        await link.close()


@asynccontextmanager
async def hangs_up_on_the_first(count: int, reset: bool) -> AsyncGenerator[tuple[str, list[int]]]:
    """A server that greets everybody, and is gone for the first ones."""
    greeted: list[int] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"3\r\n")
        greeted.append(1)
        writer.write(b"+OK\r\n")
        if len(greeted) > count:
            while await reader.readuntil(b"PING\r\n"):
                writer.write(b"+PONG\r\n")
        if reset:
            writer.transport.abort()
        writer.close()

    async def quietly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        except (asyncio.IncompleteReadError, OSError):
            writer.close()

    async with await asyncio.start_server(quietly, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        yield f"redis://127.0.0.1:{port}", greeted


@pytest.mark.parametrize("reset", [True, False])
@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_server_that_greets_and_hangs_up_twice(
    loop: Callable[[], asyncio.AbstractEventLoop], reset: bool
) -> None:
    async def use() -> None:
        async with hangs_up_on_the_first(2, reset) as (url, greeted):
            for _ in range(10):
                greeted.clear()
                async with asyncio.timeout(10), RedisProvider(url, timeout=8) as provider:
                    assert await provider.execute("PING", repeatable=True) == b"PONG"

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(use())


async def test_the_second_address_of_a_name_whose_first_hangs_up(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a balancer does that has no server left behind it."""
    loop = asyncio.get_running_loop()

    async def getaddrinfo(host: str, port: int, **_: Any) -> list[Any]:
        hosts = ("127.0.0.2", redis_server.host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", (each, port)) for each in hosts]

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    monkeypatch.setattr(loop, "getaddrinfo", getaddrinfo)
    url = f"redis://several.example:{redis_server.port}"
    async with (
        await asyncio.start_server(hang_up, "127.0.0.2", redis_server.port),
        RedisProvider(url, timeout=5) as provider,
    ):
        assert await provider.ping() > 0


@pytest.mark.parametrize("size", [0, 1, 2, 5, 10, 20, 50, 100])
async def test_a_greeting_that_is_cut_is_not_a_write_of_unknown_fate(
    size: int, fault_proxy: FaultProxy, redis_url: str, redis_prefix: str
) -> None:
    async with fault_proxy as proxy, RedisProvider(proxy.url_for(redis_url)) as provider:
        proxy.cut_after(size)
        assert await provider.execute("INCR", redis_prefix + "n") == 1


async def test_a_server_that_greets_nobody_is_no_unknown_fate() -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"3\r\n")
        writer.close()

    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as server:
        url = f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with RedisProvider(url) as provider:
            with pytest.raises(RedisConnectionError) as caught:
                await provider.execute("INCR", "n")
    assert not isinstance(caught.value, OutcomeUnknownError)  # it was never sent


# Much under way when the server dies.


async def test_a_server_killed_with_much_under_way_fails_each_write_once(
    own_redis: RedisServer, until: Until
) -> None:
    async with RedisProvider(own_redis.url, timeout=1) as provider:
        await provider.ping()
        own_redis.pause()
        writes = [asyncio.create_task(provider.execute("INCR", "n")) for _ in range(500)]
        reads = [
            asyncio.create_task(provider.execute("GET", "n", repeatable=True)) for _ in range(500)
        ]
        batch = asyncio.create_task(provider.execute_many([("INCR", "m")] * 500))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        own_redis.kill()
        kinds = Counter(map(type, await asyncio.gather(*writes, return_exceptions=True)))
        assert set(kinds) == {OutcomeUnknownError}
        with pytest.raises(OutcomeUnknownError):
            await batch
        outcomes = await asyncio.gather(*reads, return_exceptions=True)
        assert all(isinstance(each, TimeoutError | RedisConnectionError) for each in outcomes)
        await asyncio.to_thread(own_redis.restart)
        assert await provider.execute("INCR", "n") == 1
        assert await provider.execute("EXISTS", "m") == 0


async def test_reads_wait_for_a_server_that_comes_back(
    own_redis: RedisServer, own_other: Any
) -> None:
    async with RedisProvider(own_redis.url, timeout=10) as provider:
        await provider.ping()
        for _ in range(3):
            reads = [
                asyncio.create_task(provider.execute("ECHO", str(number), repeatable=True))
                for number in range(500)
            ]
            batch = asyncio.create_task(
                provider.execute_many([("ECHO", str(n)) for n in range(500)], repeatable=True)
            )
            await asyncio.sleep(0)
            own_other.execute_command(*KILL_ALL)
            expected = [str(number).encode() for number in range(500)]
            assert await asyncio.gather(*reads) == expected
            assert await batch == expected


async def test_a_batch_that_is_cut_in_the_middle(
    fault_proxy: FaultProxy, redis_url: str, redis_prefix: str, other: Any
) -> None:
    keys = [f"{redis_prefix}{number}" for number in range(100)]
    async with fault_proxy as proxy, RedisProvider(proxy.url_for(redis_url)) as provider:
        await provider.ping()
        proxy.cut_after(202)  # fifty replies of four bytes, and a half
        with pytest.raises(OutcomeUnknownError):
            await provider.execute_many([("INCR", key) for key in keys])
        assert other.mget(keys) == [b"1"] * 100
        proxy.cut_after(202)
        replies = await provider.execute_many([("GET", key) for key in keys], repeatable=True)
        assert replies == [b"1"] * 100


async def test_a_script_that_the_server_lost_with_its_memory(
    own_redis: RedisServer, own_other: Any
) -> None:
    script = RedisScript("return redis.call('INCR', KEYS[1])")
    async with RedisProvider(own_redis.url) as provider:
        assert await provider.run(script, keys=["n"]) == 1
        await asyncio.to_thread(own_redis.restart)
        runs = (provider.run(script, keys=["n"]) for _ in range(100))
        assert sorted(await asyncio.gather(*runs)) == [*range(1, 101)]


async def test_many_kills_while_everybody_writes(own_redis: RedisServer, own_other: Any) -> None:
    outcomes: Counter[str] = Counter()
    over = asyncio.Event()

    async def write(provider: RedisProvider) -> None:
        while not over.is_set():
            try:
                await provider.execute_many([("INCR", "n")] * 3)
                outcomes["done"] += 3
            except RedisError:
                outcomes["unknown"] += 3

    async with RedisProvider(own_redis.url) as provider:
        tasks = [asyncio.create_task(write(provider)) for _ in range(20)]
        kills = 0
        while kills < 20 or outcomes["unknown"] < 30 or outcomes["done"] < 1_000:
            await asyncio.to_thread(own_other.execute_command, *KILL_ALL)
            await asyncio.sleep(0.01)
            kills += 1
        over.set()
        await asyncio.gather(*tasks)
        counted = int(await provider.execute("GET", "n"))
    assert outcomes["done"] <= counted <= outcomes["done"] + outcomes["unknown"]
