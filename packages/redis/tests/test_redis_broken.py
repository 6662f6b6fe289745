"""Servers that die, freeze, refuse and are not what they were, at the worst moments."""

import asyncio
import socket
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError

from grelmicro.providers.redis import OutcomeUnknownError, RedisProvider
from grelmicro.testing.proxy import FaultProxy
from grelmicro.testing.servers import RedisServer, redis_server

Until = Callable[[Callable[[], object], str], Any]

REPLY_OF_GET = b"$5\r\nvalue\r\n"
REPLY_OF_INCR = b":1\r\n"


# A connection that is lost in the middle of a reply.


@pytest.mark.parametrize("size", range(len(REPLY_OF_GET) + 1))
async def test_a_read_whose_reply_is_cut_is_repeated(
    size: int, fault_proxy: FaultProxy, redis_url: str, redis_prefix: str, other: Any
) -> None:
    other.set(redis_prefix + "k", "value")
    async with fault_proxy as proxy, RedisProvider(proxy.url_for(redis_url)) as provider:
        await provider.ping()
        proxy.cut_after(size)
        assert await provider.execute("GET", redis_prefix + "k", repeatable=True) == b"value"
        assert await provider.execute("GET", redis_prefix + "k", repeatable=True) == b"value"


@pytest.mark.parametrize("size", range(len(REPLY_OF_INCR)))
async def test_a_write_whose_reply_is_cut_is_of_unknown_fate_and_done_once(
    size: int, fault_proxy: FaultProxy, redis_url: str, redis_prefix: str, other: Any
) -> None:
    async with fault_proxy as proxy, RedisProvider(proxy.url_for(redis_url)) as provider:
        await provider.ping()
        proxy.cut_after(size)
        with pytest.raises(OutcomeUnknownError, match="may have been done"):
            await provider.execute("INCR", redis_prefix + "n")
        assert other.get(redis_prefix + "n") == b"1"
        assert await provider.execute("INCR", redis_prefix + "n") == 2


async def test_many_replies_that_are_cut_each_have_their_own_fate(
    fault_proxy: FaultProxy, redis_url: str, redis_prefix: str, other: Any
) -> None:
    async with fault_proxy as proxy, RedisProvider(proxy.url_for(redis_url)) as provider:
        await provider.ping()
        proxy.cut_after(30)  # seven replies of four bytes, and a half
        writes = (provider.execute("INCR", f"{redis_prefix}{number}") for number in range(20))
        outcomes = await asyncio.gather(*writes, return_exceptions=True)
        assert outcomes[:7] == [1] * 7
        assert {type(outcome) for outcome in outcomes[7:]} == {OutcomeUnknownError}
        assert other.mget([f"{redis_prefix}{number}" for number in range(20)]) == [b"1"] * 20


async def test_a_server_that_is_killed_under_load_counts_nothing_twice(
    own_redis: RedisServer, until: Until
) -> None:
    outcomes: Counter[str] = Counter()
    over = asyncio.Event()

    async def count(provider: RedisProvider) -> None:
        while not over.is_set():
            try:
                outcomes["highest"] = max(outcomes["highest"], await provider.execute("INCR", "n"))
                outcomes["done"] += 1
            except (OutcomeUnknownError, TimeoutError):
                outcomes["unknown"] += 1
            except RedisError:
                outcomes["not done"] += 1
            await asyncio.sleep(0)

    async with RedisProvider(own_redis.url, timeout=1) as provider:
        tasks = [asyncio.create_task(count(provider)) for _ in range(20)]
        await until(lambda: outcomes["done"] > 2_000, "it counts")
        assert outcomes["highest"] == outcomes["done"]
        own_redis.kill()
        await until(lambda: outcomes["not done"] > 5, "it is felt")
        await asyncio.to_thread(own_redis.restart)
        before, outcomes["highest"] = outcomes["done"], 0
        await until(lambda: outcomes["done"] > before + 500, "service again")
        over.set()
        await asyncio.gather(*tasks)
        since = outcomes["done"] - before
        assert since <= int(await provider.execute("GET", "n")) <= since + outcomes["unknown"]


# A server that says nothing.


async def test_a_server_that_is_frozen_for_twice_the_timeout(own_redis: RedisServer) -> None:
    loop = asyncio.get_running_loop()
    async with RedisProvider(own_redis.url, timeout=0.3) as provider:
        await provider.execute("SET", "k", "v")
        own_redis.pause()
        started = loop.time()
        first = [asyncio.create_task(provider.execute("INCR", f"n{n}")) for n in range(20)]
        outcomes = await asyncio.gather(*first, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {TimeoutError}
        assert loop.time() - started < 5
        later = [asyncio.create_task(provider.execute("GET", "k")) for _ in range(5)]
        assert {type(each) for each in await asyncio.gather(*later, return_exceptions=True)} == {
            TimeoutError
        }
        own_redis.resume()
        replies = await asyncio.gather(*(provider.execute("GET", "k") for _ in range(50)))
        assert replies == [b"v"] * 50
        counted = await provider.execute("MGET", *(f"n{n}" for n in range(20)))
        assert set(counted) <= {b"1", None}  # never twice


async def test_a_reply_that_comes_late_is_nobody_elses(
    own_redis: RedisServer, own_other: Any
) -> None:
    async with RedisProvider(own_redis.url, timeout=0.2) as provider:
        for name in ("early", "late"):
            await provider.execute("SET", name, name)
        own_other.client_pause(500)
        with pytest.raises(TimeoutError, match="did not answer"):
            await provider.execute("GET", "early")
        replies: list[bytes] = []
        async with asyncio.timeout(20):
            while len(replies) < 20:
                with suppress(TimeoutError):
                    replies.append(await provider.execute("GET", "late"))
        assert replies == [b"late"] * 20


# A server that refuses.


async def test_a_connection_that_an_administrator_kills(
    own_redis: RedisServer, own_other: Any
) -> None:
    async with RedisProvider(own_redis.url) as provider:
        for number in range(5):
            assert await provider.execute("INCR", "n") == number + 1
            own_other.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            assert await provider.execute("GET", "n", repeatable=True) == b"%d" % (number + 1)


async def test_a_server_that_has_no_place_for_clients(until: Until) -> None:
    with redis_server(own=True, args=["--maxclients", "2"]) as server:
        async with (
            RedisProvider(server.url) as one,
            RedisProvider(server.url) as two,
            RedisProvider(server.url) as three,
        ):
            await one.ping()
            await two.ping()
            with pytest.raises(RedisConnectionError, match="max number of clients"):
                await three.execute("SET", "k", "v")
            await one.__aexit__(None, None, None)
            assert await three.execute("SET", "k", "v") == b"OK"
            await one.__aenter__()


async def test_a_password_that_changes_under_us(own_redis: RedisServer, own_other: Any) -> None:
    async with RedisProvider(own_redis.url) as provider:
        await provider.execute("SET", "k", "v")
        own_other.config_set("requirepass", "an0ther")
        own_other.execute_command("AUTH", "an0ther")
        own_other.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        for _ in range(3):
            with pytest.raises(AuthenticationError) as caught:
                await provider.execute("GET", "k", repeatable=True)
            assert "an0ther" not in str(caught.value)
        own_other.config_set("requirepass", "")
        assert await provider.execute("GET", "k", repeatable=True) == b"v"


async def test_a_full_server(own_redis: RedisServer, own_other: Any) -> None:
    async with RedisProvider(own_redis.url) as provider:
        await provider.execute("SET", "k", "v")
        own_other.config_set("maxmemory", "1")
        with pytest.raises(OutOfMemoryError):
            await provider.execute("SET", "k", "w")
        assert await provider.execute("GET", "k") == b"v"
        own_other.config_set("maxmemory", "0")
        assert await provider.execute("SET", "k", "w") == b"OK"


async def test_a_server_that_is_busy_with_a_script(own_redis: RedisServer, own_other: Any) -> None:
    own_other.config_set("busy-reply-threshold", "20")
    async with RedisProvider(own_redis.url, timeout=5) as provider:
        await provider.ping()
        endless = asyncio.to_thread(own_other.eval, "while true do end", 0)
        running = asyncio.ensure_future(endless)
        async with asyncio.timeout(10):
            with pytest.raises(ResponseError, match="BUSY"):  # noqa: PT012  # busy after a moment
                while True:
                    await provider.execute("SET", "k", "v")
        assert await provider.execute("SCRIPT", "KILL") == b"OK"
        with pytest.raises(Exception, match="killed"):
            await running
        assert await provider.execute("SET", "k", "v") == b"OK"


async def test_a_primary_that_becomes_a_replica(own_redis: RedisServer, own_other: Any) -> None:
    with redis_server(own=True) as primary:
        async with RedisProvider(own_redis.url) as provider:
            await provider.execute("SET", "k", "v")
            own_other.replicaof(primary.host, primary.port)
            with pytest.raises(ReadOnlyError):
                await provider.execute("SET", "k", "w")
            own_other.replicaof("NO", "ONE")
            assert await provider.execute("SET", "k", "w") == b"OK"


# A server of the test's own, for answers that a real one gives for a moment only.

Answer = Callable[[bytes], bytes | None]


@asynccontextmanager
async def answering(answer: Answer) -> AsyncGenerator[str]:
    """A server that answers each command by its first word."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while (line := await reader.readline()).startswith(b"*"):
            words = []
            for _ in range(int(line[1:])):
                size = int((await reader.readline())[1:])
                words.append((await reader.readexactly(size + 2))[:-2])
            if (reply := answer(words[0].upper())) is None:
                break
            writer.write(reply)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"


async def test_a_server_that_is_loading_is_waited_for() -> None:
    answers = iter([b"-LOADING Redis is loading the dataset in memory\r\n"] * 2)

    def answer(word: bytes) -> bytes:
        return b"+OK\r\n" if word == b"HELLO" else next(answers, b":1\r\n")

    async with answering(answer) as url, RedisProvider(url) as provider:
        assert await provider.execute("INCR", "n") == 1


async def test_a_server_that_goes_on_loading_is_an_error_that_says_so() -> None:
    asked: Counter[bytes] = Counter()

    def answer(word: bytes) -> bytes:
        asked[word] += 1
        return b"+OK\r\n" if word == b"HELLO" else b"-LOADING it takes long\r\n"

    async with answering(answer) as url, RedisProvider(url) as provider:
        with pytest.raises(BusyLoadingError, match="it takes long"):
            await provider.execute("INCR", "n")
    assert asked[b"INCR"] == 4


async def test_a_server_that_knows_no_hello() -> None:
    said: list[bytes] = []

    def answer(word: bytes) -> bytes:
        said.append(word)
        if word == b"HELLO":
            return b"-ERR unknown command `HELLO`, with args beginning with: `3`\r\n"
        if word == b"GET":
            return b"$1\r\nv\r\n"
        return b"+OK\r\n" if b"AUTH" in said else b"-NOAUTH Authentication required.\r\n"

    async with answering(answer) as url:
        guarded = url.replace("redis://", "redis://:secret@").replace("/0", "/3?client_name=me")
        async with RedisProvider(guarded) as provider:
            assert await provider.execute("GET", "k") == b"v"
    assert said == [b"HELLO", b"CLIENT", b"SELECT", b"AUTH", b"CLIENT", b"SELECT", b"GET"]


async def test_a_server_that_hangs_up_at_once_is_not_hammered() -> None:
    greeted: Counter[bytes] = Counter()

    def answer(word: bytes) -> bytes | None:
        greeted[word] += 1
        return b"+OK\r\n" if word == b"HELLO" else None

    async with answering(answer) as url, RedisProvider(url) as provider:
        reads = (provider.execute("GET", "k", repeatable=True) for _ in range(200))
        outcomes = await asyncio.gather(*reads, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {OutcomeUnknownError}
    assert greeted[b"HELLO"] <= 10


# Names, and what a connection is told at its beginning.


async def test_a_name_with_several_addresses(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()

    async def getaddrinfo(host: str, port: int, **_: Any) -> list[Any]:
        assert host == "several.example"
        hosts = ("127.0.0.3", "127.0.0.2", redis_server.host)  # nobody, silent, and the server
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", (each, port)) for each in hosts]

    monkeypatch.setattr(loop, "getaddrinfo", getaddrinfo)
    url = f"redis://several.example:{redis_server.port}"
    with socket.create_server(("127.0.0.2", redis_server.port)):
        async with RedisProvider(url, timeout=2) as provider:
            assert await provider.ping() > 0


async def test_a_name_that_nobody_has() -> None:
    async with RedisProvider("redis://nobody.invalid", timeout=5) as provider:
        with pytest.raises(RedisConnectionError, match=r"nobody\.invalid"):
            await provider.ping()


@pytest.mark.parametrize("lose", ["kill", "nothing"])
async def test_database_and_name_are_set_on_every_connection(
    lose: str, own_redis: RedisServer, own_other: Any
) -> None:
    url = own_redis.url.removesuffix("/0") + "/3?client_name=walker"
    async with RedisProvider(url) as provider:
        await provider.execute("SET", "k", "v")
        if lose == "kill":
            own_other.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        assert await provider.execute("GET", "k", repeatable=True) == b"v"
        assert [c["db"] for c in own_other.client_list() if c["name"] == "walker"] == ["3"]
    own_other.select(3)
    assert own_other.get("k") == b"v"


async def test_a_database_that_is_not_there(own_redis: RedisServer) -> None:
    url = own_redis.url.removesuffix("/0") + "/999"
    async with RedisProvider(url) as provider:
        for _ in range(2):
            with pytest.raises(ResponseError, match="out of range"):
                await provider.ping()


async def test_every_operation_is_over_in_time_while_nobody_answers(
    fault_proxy: FaultProxy, redis_url: str
) -> None:
    async with fault_proxy as proxy:
        proxy.stall()
        async with RedisProvider(proxy.url_for(redis_url), timeout=0.2) as provider:
            operations: list[Awaitable[Any]] = [
                provider.ping(),
                provider.execute("SET", "k", "v"),
                provider.execute_many([("SET", "a", "b"), ("GET", "a")]),
                anext(provider.scan("x")),
            ]
            async with asyncio.timeout(10):
                outcomes = await asyncio.gather(*operations, return_exceptions=True)
            assert {type(outcome) for outcome in outcomes} == {TimeoutError}
            proxy.heal()
            assert await provider.ping() > 0
