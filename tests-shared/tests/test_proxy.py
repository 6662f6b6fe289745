"""The fault proxy in front of a real server, seen from real connections."""

import asyncio
import os
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import pytest

from grelmicro.testing.proxy import FaultProxy
from grelmicro.testing.servers import RedisServer
from grelmicro.testing.servers._resp import RespConnection

PONG = b"+PONG\r\n"


class Client:
    """One connection through the proxy; `packets` is what each read brought."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def ask(self, command: bytes = b"PING", size: int = len(PONG)) -> bytes:
        self.writer.write(command + b"\r\n")
        async with asyncio.timeout(10):
            return await self.reader.readexactly(size)


@asynccontextmanager
async def connect(proxy: FaultProxy) -> AsyncGenerator[Client]:
    reader, writer = await asyncio.open_connection(proxy.host, proxy.port)
    try:
        yield Client(reader, writer)
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


@pytest.fixture
async def proxy(fault_proxy: FaultProxy) -> AsyncGenerator[FaultProxy]:
    async with fault_proxy:
        yield fault_proxy


async def until(true: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(10):
        while not await true():  # noqa: ASYNC110 - the server sends no event
            await asyncio.sleep(0.005)


async def value_at_server(url: str, key: str) -> object:
    def get() -> object:
        with RespConnection(url) as connection:
            return connection.call("GET", key)

    return await asyncio.to_thread(get)


async def test_a_healthy_proxy_is_not_noticed(proxy: FaultProxy, redis_prefix: str) -> None:
    key, value = redis_prefix.encode() + b"big", bytes(range(256)) * 4096
    async with connect(proxy) as client, connect(proxy) as other:
        assert await other.ask() == PONG
        head = b"*3\r\n$3\r\nSET\r\n$%d\r\n%b\r\n$%d\r\n" % (len(key), key, len(value))
        assert await client.ask(head + value, size=5) == b"+OK\r\n"
        answer = b"$%d\r\n%b\r\n" % (len(value), value)
        assert await client.ask(b"GET " + key, size=len(answer)) == answer


def test_a_proxy_is_made_without_a_loop_and_has_no_port_yet() -> None:
    with pytest.raises(RuntimeError, match="async with"):
        FaultProxy("127.0.0.1", 1).port  # noqa: B018 - the access is the subject


async def test_url_for_changes_the_address_alone(proxy: FaultProxy) -> None:
    here = f"{proxy.host}:{proxy.port}"
    assert proxy.url_for("redis://h:1/2?db=3#x") == f"redis://{here}/2?db=3#x"
    assert proxy.url_for("rediss://u:p%40w@[::1]:1/2") == f"rediss://u:p%40w@{here}/2"
    assert proxy.url_for("redis://:p@host") == f"redis://:p@{here}"


async def test_a_delay_holds_answers_for_so_long(proxy: FaultProxy) -> None:
    loop = asyncio.get_running_loop()
    async with connect(proxy) as client:
        proxy.delay(0.2)
        start = loop.time()
        assert await client.ask() == PONG
        assert loop.time() - start >= 0.19
        proxy.heal()
        assert await client.ask() == PONG


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf")])
def test_a_delay_is_finite_and_not_negative(seconds: float) -> None:
    with pytest.raises(ValueError, match="seconds"):
        FaultProxy("h", 1).delay(seconds)


@pytest.mark.parametrize("size", [0, -1])
def test_a_packet_has_a_byte_at_least(size: int) -> None:
    with pytest.raises(ValueError, match="size"):
        FaultProxy("h", 1).chop(size)


async def test_a_stall_holds_answers_and_lets_requests_through(
    proxy: FaultProxy, redis_url: str, redis_prefix: str
) -> None:
    key = f"{redis_prefix}k"
    async with connect(proxy) as client:
        proxy.stall()
        client.writer.write(f"SET {key} 1\r\n".encode())
        await until(lambda: _is(value_at_server(redis_url, key), b"1"))
        answer = asyncio.ensure_future(client.reader.read(100))
        done, _ = await asyncio.wait([answer], timeout=0.1)
        assert not done
        proxy.heal()
        assert await answer == b"+OK\r\n"


async def _is(value: Awaitable[object], expected: object) -> bool:
    return await value == expected


async def test_a_stall_holds_for_connections_to_come(proxy: FaultProxy) -> None:
    proxy.stall()
    async with connect(proxy) as client:
        client.writer.write(b"PING\r\n")
        answer = asyncio.ensure_future(client.reader.read(100))
        done, _ = await asyncio.wait([answer], timeout=0.1)
        assert not done
        proxy.heal()
        assert await answer == PONG


async def test_answers_held_by_a_stall_come_glued(
    proxy: FaultProxy, redis_url: str, redis_prefix: str
) -> None:
    key = f"{redis_prefix}k"
    async with connect(proxy) as client:
        proxy.stall()
        for number in range(1, 4):  # one by one: three answers in three packets of the server
            client.writer.write(f"INCR {key}\r\n".encode())
            await until(lambda n=number: _is(value_at_server(redis_url, key), b"%d" % n))  # type: ignore[misc]  # bound early on purpose
        proxy.heal()
        proxy.chop(100)  # were there two packets, a pause would keep them apart
        assert await client.reader.read(100) == b":1\r\n:2\r\n:3\r\n"


async def test_chopped_answers_come_in_small_packets(proxy: FaultProxy) -> None:
    proxy.chop(3)
    async with connect(proxy) as client:
        client.writer.write(b"ECHO 12345678\r\n")
        packets: list[bytes] = []
        while len(b"".join(packets)) < 14:
            packets.append(await client.reader.read(100))
    assert packets == [b"$8\r", b"\n12", b"345", b"678", b"\r\n"]


async def test_a_cut_resets_connections_and_welcomes_new_ones(proxy: FaultProxy) -> None:
    async with connect(proxy) as first, connect(proxy) as second:
        for client in (first, second):
            assert await client.ask() == PONG
        proxy.cut()
        for client in (first, second):
            with pytest.raises(ConnectionResetError):
                await client.reader.read(1)
    async with connect(proxy) as client:
        assert await client.ask() == PONG


async def test_a_cut_loses_the_answer_of_a_request_that_was_done(
    proxy: FaultProxy, redis_url: str, redis_prefix: str
) -> None:
    key = f"{redis_prefix}k"
    proxy.stall()
    async with connect(proxy) as client:
        client.writer.write(f"SET {key} 1\r\n".encode())
        await until(lambda: _is(value_at_server(redis_url, key), b"1"))
        proxy.cut()
        proxy.heal()
        with pytest.raises(ConnectionResetError):
            await client.reader.read(100)


async def test_a_cut_before_the_link_is_up_is_a_cut(proxy: FaultProxy) -> None:
    async with connect(proxy) as client:
        # To be accepted, and not a step further: nothing to wait on but the loop itself.
        while not proxy._links:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0)
        proxy.cut()
        with pytest.raises(ConnectionResetError):
            await client.reader.read(1)


@pytest.mark.parametrize("size", [1, 6, 7, 8, 14, 20])
@pytest.mark.parametrize("chopped", [False, True])
async def test_a_cut_after_so_many_bytes_lets_exactly_these_through(
    proxy: FaultProxy, size: int, chopped: bool
) -> None:
    async with connect(proxy) as client:
        assert await client.ask() == PONG
        if chopped:
            proxy.chop(3)
        proxy.cut_after(size)
        client.writer.write(b"PING\r\n" * 3)
        async with asyncio.timeout(10):
            assert await client.reader.readexactly(size) == (PONG * 3)[:size]
            with pytest.raises(ConnectionResetError):
                await client.reader.read(1)
    async with connect(proxy) as client:  # once
        for _ in range(5):
            assert await client.ask() == PONG


async def test_a_cut_after_no_byte_loses_the_next_answer(
    proxy: FaultProxy, redis_url: str, redis_prefix: str
) -> None:
    key = f"{redis_prefix}k"
    async with connect(proxy) as idle, connect(proxy) as client:
        assert await idle.ask() == PONG
        assert await client.ask() == PONG
        proxy.cut_after(0)
        client.writer.write(f"SET {key} 1\r\n".encode())
        async with asyncio.timeout(10):
            with pytest.raises(ConnectionResetError):
                await client.reader.read(1)
        assert await value_at_server(redis_url, key) == b"1"
        assert await idle.ask() == PONG


async def test_a_cut_after_bytes_counts_those_of_all_connections(proxy: FaultProxy) -> None:
    async with connect(proxy) as first, connect(proxy) as second:
        proxy.cut_after(2 * len(PONG) + 1)
        assert await first.ask() == PONG
        assert await second.ask() == PONG
        assert await first.ask(size=1) == PONG[:1]
        with pytest.raises(ConnectionResetError):
            await first.reader.read(1)
        assert await second.ask() == PONG


async def test_a_cut_after_bytes_reaches_a_slow_reader_whole(
    proxy: FaultProxy, redis_url: str, redis_prefix: str
) -> None:
    key, value = f"{redis_prefix}big", b"x" * (4 << 20)

    def put() -> None:
        with RespConnection(redis_url) as connection:
            connection.call("SET", key, value)

    await asyncio.to_thread(put)
    async with connect(proxy) as client:
        assert await client.ask() == PONG
        proxy.cut_after(3 << 20)
        client.writer.write(f"GET {key}\r\n".encode())
        transport = client.writer.transport
        assert isinstance(transport, asyncio.Transport)
        await until(lambda: _is(_result(transport.is_reading()), False))  # its buffer is full
        async with asyncio.timeout(10):
            assert len(await client.reader.readexactly(3 << 20)) == 3 << 20
            with pytest.raises(ConnectionResetError):
                await client.reader.read(1)


async def test_a_healed_proxy_cuts_no_more(proxy: FaultProxy) -> None:
    async with connect(proxy) as client:
        proxy.cut_after(3)
        proxy.heal()
        assert await client.ask() == PONG


def test_a_cut_after_less_than_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="size"):
        FaultProxy("h", 1).cut_after(-1)


async def test_refused_connections_fail_and_open_ones_stay(proxy: FaultProxy) -> None:
    async with connect(proxy) as client:
        assert await client.ask() == PONG
        proxy.refuse()
        proxy.refuse()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(proxy.host, proxy.port)
        assert await client.ask() == PONG
    port = proxy.port
    proxy.heal()
    assert proxy.port == port
    async with connect(proxy) as client:
        assert await client.ask() == PONG


async def test_a_half_closed_connection_ends_for_reading_and_still_takes_requests(
    proxy: FaultProxy, redis_url: str, redis_prefix: str
) -> None:
    key = f"{redis_prefix}k"
    async with connect(proxy) as client:
        assert await client.ask() == PONG
        proxy.half_close()
        assert await client.reader.read(100) == b""
        for value in (b"1", b"2"):
            client.writer.write(f"SET {key} ".encode() + value + b"\r\n")
            await until(lambda v=value: _is(value_at_server(redis_url, key), v))  # type: ignore[misc]  # bound early on purpose
        async with connect(proxy) as later:
            assert await later.ask() == PONG


async def test_a_client_that_ends_its_half_gets_its_answers(proxy: FaultProxy) -> None:
    async with connect(proxy) as client:
        client.writer.write(b"PING\r\nPING\r\n")
        client.writer.write_eof()
        async with asyncio.timeout(10):
            assert await client.reader.read() == PONG * 2


async def test_a_server_that_dies_and_comes_back_does_so_behind_the_proxy(
    own_redis: RedisServer,
) -> None:
    async with FaultProxy("localhost", own_redis.port) as proxy:
        async with connect(proxy) as client:
            assert await client.ask() == PONG
            own_redis.kill()
            with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
                await client.ask()
        async with connect(proxy) as client:
            with pytest.raises(ConnectionResetError):
                await client.ask()
        await asyncio.to_thread(own_redis.restart)
        async with connect(proxy) as client:
            assert await client.ask() == PONG


async def test_a_dead_server_stays_unnoticed_during_a_stall(own_redis: RedisServer) -> None:
    async with FaultProxy(own_redis.host, own_redis.port) as proxy, connect(proxy) as client:
        assert await client.ask() == PONG
        proxy.stall()
        own_redis.kill()
        end = asyncio.ensure_future(client.reader.read(100))
        done, _ = await asyncio.wait([end], timeout=0.1)
        assert not done
        proxy.heal()
        assert await end == b""


def open_files() -> set[str]:
    return set(os.listdir("/dev/fd"))


@pytest.mark.parametrize("fault", ["none", "stall", "delay", "cut", "refuse", "half_close"])
async def test_nothing_is_left_behind(
    redis_server: RedisServer, fault_proxy: FaultProxy, fault: str
) -> None:
    files, tasks = open_files(), asyncio.all_tasks()
    for _ in range(2):  # the same proxy may be used again
        writers = []
        async with fault_proxy as proxy:
            port = proxy.port
            for _ in range(5):
                reader, writer = await asyncio.open_connection(proxy.host, proxy.port)
                writers.append(writer)
                writer.write(b"PING\r\n")
                assert await reader.read(100) == PONG
            if fault == "delay":
                proxy.delay(600)
            elif fault != "none":
                getattr(proxy, fault)()
            if fault in ("stall", "delay"):
                for writer in writers:
                    writer.write(b"PING\r\n")
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)
        assert asyncio.all_tasks() == tasks
        for writer in writers:
            writer.transport.abort()
        await until(lambda: _is(_result(open_files()), files))


async def _result(value: object) -> object:
    return value


async def test_it_ends_with_its_block_even_if_that_is_cancelled(fault_proxy: FaultProxy) -> None:
    tasks = asyncio.all_tasks()

    async def hold() -> None:
        async with fault_proxy, connect(fault_proxy) as client:
            await client.ask()
            await asyncio.sleep(600)

    holder = asyncio.ensure_future(hold())
    while not fault_proxy._links:  # noqa: ASYNC110 - the proxy has no event for a new link
        await asyncio.sleep(0)
    holder.cancel()
    with pytest.raises(asyncio.CancelledError):
        await holder
    assert asyncio.all_tasks() == tasks
    assert not fault_proxy._links
