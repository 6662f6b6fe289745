"""What callers of one connection may not do to each other."""

import asyncio
import gc
import os
import sys
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any, cast

import pytest
import uvloop
from redis.exceptions import ResponseError

from grelmicro.errors import OutOfContextError
from grelmicro.providers.redis import RedisProvider, RedisScript
from grelmicro.testing.servers import RedisServer, redis_server

Until = Callable[[Callable[[], object], str], Any]
Calls = Callable[[Any], dict[str, int]]

REFUSED = """
BLPOP k 1|BRPOP k 1|BLMOVE a b LEFT LEFT 1|BRPOPLPUSH a b 1|BLMPOP 1 1 k LEFT|BZPOPMIN k 1
BZPOPMAX k 1|BZMPOP 1 1 k MIN|WAIT 1 0|WAITAOF 0 0 1|XREAD BLOCK 0 STREAMS s $
XREAD COUNT 1 BLOCK 0 STREAMS s $|XREADGROUP GROUP g c BLOCK 0 STREAMS s >
MULTI|EXEC|DISCARD|WATCH k|UNWATCH|SELECT 1|AUTH p|AUTH u p|HELLO|HELLO 2|QUIT|RESET|ASKING
READONLY|READWRITE|SUBSCRIBE c|PSUBSCRIBE c|SSUBSCRIBE c|UNSUBSCRIBE|PUNSUBSCRIBE|SUNSUBSCRIBE
MONITOR|SYNC|PSYNC ? -1|REPLCONF ACK 0|SHUTDOWN NOSAVE|CLIENT REPLY OFF|CLIENT REPLY SKIP
CLIENT CACHING YES|CLIENT NO-EVICT ON|CLIENT NO-TOUCH ON|CLIENT SETNAME x|CLIENT TRACKING ON
SCRIPT DEBUG YES
"""
COMMANDS = [line for lines in REFUSED.split("\n") for line in lines.split("|") if line]


def spellings(command: str) -> list[Sequence[Any]]:
    words = command.split()
    lower = [word.lower() for word in words]
    return [words, lower, [word.encode() for word in words], [word.encode() for word in lower]]


@pytest.mark.parametrize("multiplex", [True, False])
@pytest.mark.parametrize("command", COMMANDS)
async def test_all_that_is_refused_in_any_spelling(
    command: str, multiplex: bool, redis_url: str
) -> None:
    async with RedisProvider(redis_url, multiplex=multiplex) as provider:
        for words in spellings(command):
            with pytest.raises(ValueError, match=r"use the provider's \.client"):
                await provider.execute(*words)
            with pytest.raises(ValueError, match=r"use the provider's \.client"):
                await provider.execute_many([("PING",), words])


@pytest.mark.parametrize(
    "words",
    [
        pytest.param((memoryview(b"suBscribe"), b"c"), id="view-of-name"),
        pytest.param((b"CLIENT", memoryview(b"REPLY"), b"OFF"), id="view-of-subcommand"),
        pytest.param(("SELECT 5",), id="two-words-in-one"),
        pytest.param(("CLIENT REPLY", "OFF"), id="three-words-in-two"),
        pytest.param((" multi",), id="space-before"),
    ],
)
@pytest.mark.parametrize("multiplex", [True, False])
async def test_a_name_in_disguise_changes_nothing_for_others(
    words: Any, multiplex: bool, own_redis: RedisServer
) -> None:
    async with RedisProvider(
        own_redis.url, multiplex=multiplex, max_connections=1, timeout=1
    ) as provider:
        await provider.execute("SET", "k", "v")
        with pytest.raises((ValueError, TypeError, ResponseError)):
            await provider.execute(*words)
        assert await provider.execute("GET", "k") == b"v"
        assert b" db=0 " in await provider.execute("CLIENT", "INFO")


@pytest.mark.parametrize("argument", [None, True, False, object(), [1], {}, ("a",), 1j])
async def test_an_argument_that_cannot_be_sent_sends_nothing(
    argument: Any, own_redis: RedisServer, own_other: Any, calls: Calls
) -> None:
    async with RedisProvider(own_redis.url) as provider:
        await provider.ping()
        kind = type(argument).__name__
        with pytest.raises(TypeError, match=f"argument 2 of 'SET' is of type {kind}"):
            await provider.execute("SET", "k", argument)
        with pytest.raises(TypeError, match=f"argument 1 of 'DEL' is of type {kind}"):
            await provider.execute_many([("SET", "k", "v"), ("DEL", argument)])
        assert await provider.execute("EXISTS", "k") == 0
        assert not {"set", "del"} & set(calls(own_other))


async def test_numbers_and_texts_of_every_kind_arrive(redis_url: str, redis_prefix: str) -> None:
    values: list[Any] = [0, -1, 2**63, 1.5, -0.0, 1e300, "", "é\x00\r\n", b"", b"\xff\r\n$1", "🙂"]
    async with RedisProvider(redis_url) as provider:
        for value in values:
            got = await provider.execute("ECHO", value)
            if isinstance(value, int | float):
                assert type(value)(got.decode()) == value
            else:
                assert got == (value.encode() if isinstance(value, str) else value)


# Very many commands, and very big ones.


async def test_20_000_commands_at_once(redis_url: str, redis_prefix: str) -> None:
    async with RedisProvider(redis_url, timeout=60) as provider:
        key = redis_prefix + "n"
        tasks = [asyncio.create_task(provider.execute("INCR", key)) for _ in range(10_000)]
        batch = provider.execute_many([("INCR", key)] * 10_000)
        numbers = [*await batch, *await asyncio.gather(*tasks)]
        assert sorted(numbers) == [*range(1, 20_001)]


async def test_300_megabytes_for_a_server_that_does_not_read(own_redis: RedisServer) -> None:
    value = b"v" * 1_000_000
    async with RedisProvider(own_redis.url, timeout=60) as provider:
        await provider.ping()
        own_redis.pause()
        try:
            writes = [
                asyncio.create_task(provider.execute("SET", f"k{n % 3}", value)) for n in range(300)
            ]
            for _ in range(20):  # all that can happen now, has
                await asyncio.sleep(0.01)
                for connection in cast("Any", provider._door)._route._link._connections:
                    assert connection._transport.get_write_buffer_size() < 3_000_000
                    assert connection._unwritten_size < 3_000_000
            assert not any(task.done() for task in writes)
        finally:
            own_redis.resume()
        assert await asyncio.gather(*writes) == [b"OK"] * 300


async def test_what_was_answered_is_not_kept(redis_url: str, redis_prefix: str) -> None:
    async with RedisProvider(redis_url) as provider:
        tasks = [asyncio.create_task(provider.execute("PING")) for _ in range(500)]
        for task in tasks[::3]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await provider.ping()
        (connection,) = cast("Any", provider._door)._route._link._connections
        assert not connection._waiting
        assert not connection._unwritten
        kept = weakref.ref(connection)
        tasks.clear()
        del connection
    gc.collect()
    assert kept() is None


# Loops, threads, processes.


async def test_a_loop_in_a_thread_while_this_one_is_busy(redis_url: str, redis_prefix: str) -> None:
    key = redis_prefix + "n"
    refused: list[BaseException] = []
    async with RedisProvider(redis_url) as provider:
        await provider.ping()

        async def elsewhere() -> list[Any]:
            for use in (provider.execute("INCR", key), provider.execute_many([("INCR", key)])):
                try:
                    await use
                except OutOfContextError as error:
                    refused.append(error)
            async with RedisProvider(redis_url) as own:
                return await asyncio.gather(*(own.execute("INCR", key) for _ in range(500)))

        theirs = asyncio.ensure_future(asyncio.to_thread(lambda: asyncio.run(elsewhere())))
        ours = await asyncio.gather(*(provider.execute("INCR", key) for _ in range(500)))
        assert sorted([*ours, *await theirs]) == [*range(1, 1_001)]
    assert len(refused) == 2
    assert threading.active_count() < 20


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nobody forks here")
async def test_a_child_forked_with_commands_in_flight(own_redis: RedisServer) -> None:
    program = """
import asyncio, os, sys
from grelmicro.providers.redis import RedisProvider

async def child(provider):
    async with provider:
        keys = [f"k{number}" for number in range(200)]
        got = await asyncio.gather(*(provider.execute("GET", key) for key in keys))
        return 0 if got == [key.encode() for key in keys] else 2

async def main():
    async with RedisProvider(sys.argv[1]) as provider:
        keys = [f"k{number}" for number in range(200)]
        await provider.execute_many([("SET", key, key) for key in keys])
        tasks = [asyncio.create_task(provider.execute("GET", key)) for key in keys]
        for _ in range(2):
            await asyncio.sleep(0)  # they are written, and no reply is read
        assert not any(task.done() for task in tasks)
        pid = os.fork()
        if not pid:
            asyncio._set_running_loop(None)
            os._exit(asyncio.run(child(provider)))
        assert await asyncio.gather(*tasks) == [key.encode() for key in keys]
        _, status = await asyncio.to_thread(os.waitpid, pid, 0)
        got = await asyncio.gather(*(provider.execute("GET", key) for key in keys))
        assert got == [key.encode() for key in keys]
        return os.waitstatus_to_exitcode(status)

sys.exit(asyncio.run(main()))
"""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-W", "ignore::DeprecationWarning", "-c", program, own_redis.url
    )
    assert await process.wait() == 0


def test_uvloop_through_bad_days(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What is up to the loop: unix sockets, lost connections, full buffers, cancelled callers."""

    async def use(server: RedisServer, url: str) -> None:
        async with RedisProvider(url, timeout=20, connections=2) as provider:
            names = [f"k{number}" for number in range(300)]
            await provider.execute_many([("SET", name, name) for name in names])
            tasks = [asyncio.create_task(provider.execute("GET", name)) for name in names]
            await asyncio.sleep(0)
            for task in tasks[::2]:
                task.cancel()
            got = await asyncio.gather(*tasks[1::2])
            assert got == [name.encode() for name in names[1::2]]
            server.pause()
            writes = [provider.execute("SET", "big", b"v" * 1_000_000) for _ in range(50)]
            waiting = asyncio.gather(*writes)
            await asyncio.sleep(0.1)
            server.resume()
            assert await waiting == [b"OK"] * 50
            script = RedisScript("return redis.call('INCR', KEYS[1])")
            for round_ in range(3):
                await asyncio.to_thread(server.restart)
                runs = (provider.run(script, keys=["n"], repeatable=True) for _ in range(100))
                assert max(await asyncio.gather(*runs)) >= 100, round_
            with pytest.raises(ResponseError):
                await provider.execute("NONSENSE")
        assert asyncio.all_tasks() == {asyncio.current_task()}

    path = tmp_path_factory.mktemp("u") / "r.sock"
    with redis_server(own=True, unix_socket=path) as server:
        for url in (server.url, f"unix://{path}"):
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(use(server, url))


async def test_a_script_that_is_flushed_all_the_time(
    own_redis: RedisServer, own_other: Any
) -> None:
    script = RedisScript("return redis.call('INCR', KEYS[1])")
    over = threading.Event()

    def flush() -> None:
        while not over.is_set():
            own_other.script_flush()

    async with RedisProvider(own_redis.url) as provider:
        flushing = asyncio.ensure_future(asyncio.to_thread(flush))
        try:
            for wave in range(20):
                runs = (provider.run(script, keys=["n"]) for _ in range(100))
                numbers = await asyncio.gather(*runs)
                assert sorted(numbers) == [*range(wave * 100 + 1, wave * 100 + 101)]
        finally:
            over.set()
            await flushing
