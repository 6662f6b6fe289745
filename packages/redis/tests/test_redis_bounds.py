"""The shared connection: what it holds, what it leaves behind, and who may use it for what."""

import asyncio
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import uvloop
from redis.exceptions import RedisError, ResponseError

from grelmicro.errors import OutOfContextError
from grelmicro.providers.redis import RedisProvider, RedisScript
from grelmicro.testing.servers import RedisServer

Until = Callable[[Callable[[], object], str], Any]


# Big values, back-pressure, leaks.


async def test_a_big_reply_does_not_hold_up_small_ones(redis_url: str, redis_prefix: str) -> None:
    big = os.urandom(1_000_000) * 100
    order: list[str] = []

    async def ask(provider: RedisProvider, name: str) -> None:
        value = await provider.execute("GET", redis_prefix + name, repeatable=True)
        assert value == (big if name == "big" else b"small")
        order.append(name)

    async with RedisProvider(redis_url, timeout=60) as provider:
        await provider.execute("SET", redis_prefix + "big", big)
        await provider.execute("SET", redis_prefix + "small", "small")
        asking = asyncio.create_task(ask(provider, "big"))
        while not asking.done():
            await asyncio.sleep(0.005)
            await ask(provider, "small")
        await asking
    assert order.index("big") > 5
    async with RedisProvider(redis_url, timeout=60, connections=1) as provider:
        await asyncio.gather(ask(provider, "small"), ask(provider, "big"), ask(provider, "small"))


async def test_a_server_that_does_not_read_keeps_the_buffer_bounded(own_redis: RedisServer) -> None:
    value = b"v" * 1_000_000
    async with RedisProvider(own_redis.url, timeout=60, connections=1) as provider:
        await provider.ping()
        own_redis.pause()
        writes = [asyncio.create_task(provider.execute("SET", "k", value)) for _ in range(100)]
        await asyncio.sleep(0.1)
        (connection,) = cast("Any", provider._door)._route._link._connections
        assert connection._transport.get_write_buffer_size() < 8_000_000
        own_redis.resume()
        assert await asyncio.gather(*writes) == [b"OK"] * 100


def open_files() -> int:
    """How many files and sockets this process has open, where the system tells."""
    folder = Path("/proc/self/fd")
    return len([*folder.iterdir()]) if folder.is_dir() else 0


async def test_a_thousand_opens_leave_nothing(
    own_redis: RedisServer, own_other: Any, until: Until
) -> None:
    provider = RedisProvider(own_redis.url)
    before = open_files()
    for number in range(1_000):
        async with provider:
            await provider.execute("PING")
            if number % 100 == 0:
                await asyncio.gather(*(provider.execute("INCR", "n") for _ in range(50)))
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert open_files() <= before + 1
    await until(lambda: len(own_other.client_list()) == 1, "the server has no connection of ours")


# Other loops, processes and threads.


async def test_another_loop_is_refused_and_does_no_harm(redis_url: str) -> None:
    async with RedisProvider(redis_url) as provider:
        await provider.ping()

        async def elsewhere() -> str:
            with pytest.raises(OutOfContextError, match="another event loop"):
                await provider.execute("PING")
            with pytest.raises(OutOfContextError, match="another event loop"):
                await provider.__aenter__()
            async with RedisProvider(redis_url) as own:
                return "pong" if await own.ping() else ""

        assert await asyncio.to_thread(asyncio.run, elsewhere()) == "pong"
        assert await provider.ping() > 0


FORKS = """
import asyncio, os, sys
from grelmicro.errors import OutOfContextError
from grelmicro.providers.redis import RedisProvider

async def child(provider):
    try:
        await provider.execute("PING")
    except OutOfContextError:
        pass
    else:
        return 1
    async with provider:
        return 0 if await provider.execute("INCR", "forked") == 2 else 2

async def main():
    async with RedisProvider(sys.argv[1]) as provider:
        assert await provider.execute("INCR", "forked") == 1
        pid = os.fork()
        if not pid:
            asyncio._set_running_loop(None)
            os._exit(asyncio.run(child(provider)))
        _, status = await asyncio.to_thread(os.waitpid, pid, 0)
        assert await provider.execute("INCR", "forked") == 3
        return os.waitstatus_to_exitcode(status)

sys.exit(asyncio.run(main()))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nobody forks here")
async def test_a_forked_child_has_connections_of_its_own(own_redis: RedisServer) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKS, own_redis.url
    )
    assert await process.wait() == 0


def test_uvloop(redis_url: str, redis_prefix: str) -> None:
    async def use() -> None:
        async with RedisProvider(redis_url) as provider:
            assert type(asyncio.get_running_loop()).__module__.startswith("uvloop")
            key = redis_prefix + "n"
            numbers = await asyncio.gather(*(provider.execute("INCR", key) for _ in range(1000)))
            assert sorted(numbers) == [*range(1, 1001)]
            big = b"v" * 10_000_000
            await provider.execute("SET", key, big)
            assert await provider.execute("GET", key) == big
            with pytest.raises(RedisError):
                await provider.execute("NONSENSE")

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(use())


# What is refused.


@pytest.mark.parametrize("multiplex", [True, False])
@pytest.mark.parametrize(
    "command",
    ["BLPOP k 1", "brpop k 1", "BLMOVE a b LEFT LEFT 1", "SUBSCRIBE c", "MULTI", "watch k",
     "SELECT 1", "AUTH p", "HELLO 3", "RESET", "MONITOR", "XREAD BLOCK 0 STREAMS s $",
     "CLIENT REPLY OFF", "client tracking on", "WAIT 1 0"],
)  # fmt: skip
async def test_what_blocks_or_changes_a_connection_is_refused(
    command: str, multiplex: bool, redis_url: str
) -> None:
    async with RedisProvider(redis_url, multiplex=multiplex) as provider:
        words = command.split()
        for args in (words, [word.encode() for word in words]):
            with pytest.raises(ValueError, match=r"use the provider's \.client"):
                await provider.execute(*args)
        with pytest.raises(ValueError, match="no command"):
            await provider.execute()
        assert await provider.ping() > 0


async def test_what_is_refused_works_through_the_client(
    provider: RedisProvider, redis_prefix: str
) -> None:
    client: Any = provider.client
    await client.rpush(redis_prefix + "list", "a")
    assert len(await client.blpop([redis_prefix + "list"], 1)) == 2
    async with client.pipeline(transaction=True) as pipeline:
        pipeline.incr(redis_prefix + "n").incr(redis_prefix + "n")
        assert await pipeline.execute() == [1, 2]
    assert await provider.execute("XREAD", "COUNT", 1, "STREAMS", redis_prefix + "block", "0") in (
        None, [], {},
    )  # fmt: skip
    assert b"name" in await provider.execute("CLIENT", "INFO")


@pytest.mark.parametrize("argument", [None, True, object(), [1], {}])
async def test_arguments_that_cannot_be_sent_are_named(argument: Any, redis_url: str) -> None:
    async with RedisProvider(redis_url) as provider:
        with pytest.raises(TypeError, match="argument 2 of 'SET'"):
            await provider.execute("SET", "k", argument)
        with pytest.raises(TypeError, match="argument 2 of 'SET'"):
            await provider.execute_many([("PING",), ("SET", "k", argument)])


async def test_many_commands_and_the_first_failure(
    provider: RedisProvider, redis_prefix: str
) -> None:
    key = redis_prefix + "k"
    assert await provider.execute_many([]) == []
    assert await provider.execute_many([("SET", key, "v"), ("GET", key)]) in (
        [b"OK", b"v"],
        [True, b"v"],  # redis-py's reading of OK
    )
    with pytest.raises(ResponseError, match="not an integer"):
        await provider.execute_many([("INCR", key), ("SET", key, "w"), ("NONSENSE",)])
    assert await provider.execute("GET", key) == b"w"  # they are done all the same


async def test_a_script_that_the_server_forgets_is_sent_again(
    provider: RedisProvider, redis_prefix: str, other: Any
) -> None:
    script = RedisScript("return redis.call('INCRBY', KEYS[1], ARGV[1])")
    other.script_flush()
    keys = [redis_prefix + "n"]
    numbers = await asyncio.gather(*(provider.run(script, keys=keys, args=[2]) for _ in range(100)))
    assert sorted(numbers) == [*range(2, 202, 2)]
    other.script_flush()
    assert await provider.run(script, keys=keys, args=[2]) == 202
