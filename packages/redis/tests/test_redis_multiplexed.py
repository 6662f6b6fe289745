"""The shared connection: replies in any pieces, and callers that leave."""

import asyncio
import random
from collections import Counter
from collections.abc import Iterable
from typing import Any, cast

import hiredis
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from grelmicro.providers import _redis_connection
from grelmicro.providers._redis_connection import Connection, NotSentError
from grelmicro.providers.redis import OutcomeUnknownError, RedisProvider
from grelmicro.testing.proxy import FaultProxy


class Wire:
    """What a connection writes to, where nothing has to arrive."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.aborted = False

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def is_closing(self) -> bool:
        return self.aborted

    def abort(self) -> None:
        self.aborted = True

    def set_write_buffer_limits(self, high: int) -> None:
        pass


def connected() -> tuple[Connection, Wire]:
    connection, wire = Connection(timeout=60, changed=lambda _: None), Wire()
    connection.connection_made(cast("asyncio.BaseTransport", wire))
    connection.open_up()
    return connection, wire


# Replies in any pieces.

Reply = tuple[bytes, object]


def bulk(data: bytes) -> bytes:
    return b"$%d\r\n%s\r\n" % (len(data), data)


SIMPLE: Iterable[st.SearchStrategy[Reply]] = (
    st.binary(max_size=40).map(lambda data: (bulk(data), data)),
    st.integers(-(2**63), 2**63 - 1).map(lambda number: (b":%d\r\n" % number, number)),
    st.sampled_from([(b"_\r\n", None), (b"$-1\r\n", None), (b"*-1\r\n", None)]),
    st.booleans().map(lambda value: (b"#t\r\n" if value else b"#f\r\n", value)),
    st.floats(allow_nan=False).map(lambda number: (f",{number!r}\r\n".encode(), number)),
    st.sampled_from([b"OK", b"", b"PONG"]).map(lambda text: (b"+" + text + b"\r\n", text)),
)


def arrays(inner: st.SearchStrategy[Reply]) -> st.SearchStrategy[Reply]:
    return st.lists(inner, max_size=4).map(
        lambda parts: (
            b"*%d\r\n" % len(parts) + b"".join(raw for raw, _ in parts),
            [value for _, value in parts],
        )
    )


def maps(inner: st.SearchStrategy[Reply]) -> st.SearchStrategy[Reply]:
    return st.dictionaries(st.binary(max_size=5), inner, max_size=3).map(
        lambda parts: (
            b"%%%d\r\n" % len(parts) + b"".join(bulk(key) + raw for key, (raw, _) in parts.items()),
            {key: value for key, (_, value) in parts.items()},
        )
    )


REPLIES = st.recursive(st.one_of(*SIMPLE), lambda inner: arrays(inner) | maps(inner), max_leaves=8)
ERRORS = st.sampled_from(
    [b"ERR no", b"WRONGTYPE x", b"MOVED nonsense", b"ERR \xff\xfe", b"OOM full"]
)
PUSH = b">3\r\n+message\r\n+channel\r\n$1\r\nx\r\n"


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_split_of_any_stream_gives_everybody_their_own(data: st.DataObject) -> None:
    parts: list[Reply | bytes] = data.draw(st.lists(REPLIES | ERRORS, min_size=1, max_size=6))
    streams = [part[0] if isinstance(part, tuple) else b"-%s\r\n" % part for part in parts]
    stream = b"".join(data.draw(st.sampled_from([b"", PUSH])) + each for each in streams)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))

    async def feed() -> list[Any]:
        connection, _ = connected()
        futures = [connection.send(b"command") for _ in parts]
        for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
            if start < end:
                connection.data_received(stream[start:end])
        async with asyncio.timeout(5):
            replies = await asyncio.gather(*futures, return_exceptions=True)
        connection.lose("the end")
        return replies

    for part, reply in zip(parts, asyncio.run(feed()), strict=True):
        if isinstance(part, tuple):
            assert reply == part[1]
            assert type(reply) is type(part[1])
        else:
            assert isinstance(reply, ResponseError)


@pytest.mark.parametrize("stream", [b"nonsense\r\n", b"*1\r\n@\r\n", b"+one\r\n+nobody asked\r\n"])
async def test_what_is_no_reply_ends_the_connection(stream: bytes) -> None:
    connection, wire = connected()
    future = connection.send(b"command")
    await asyncio.sleep(0)
    connection.data_received(stream)
    if stream.startswith(b"+one"):
        assert await future == b"one"
    else:
        with pytest.raises(OutcomeUnknownError, match="no reply to a command"):
            await future
    assert wire.aborted
    assert not connection.usable
    with pytest.raises(NotSentError):
        await connection.send(b"command")


async def test_commands_of_one_iteration_are_a_few_writes() -> None:
    connection, wire = connected()
    for number in range(31):
        connection.send(b"%d;" % number)
    assert wire.written == []
    await asyncio.sleep(0)
    assert wire.written == [b"".join(b"%d;" % number for number in range(31))]
    for number in range(100):  # the server begins before all are made
        connection.send(b"%d;" % number)
    await asyncio.sleep(0)
    assert [written.count(b";") for written in wire.written[1:]] == [32, 32, 32, 4]
    assert b"".join(wire.written[1:]) == b"".join(b"%d;" % number for number in range(100))
    connection.lose("the end")


async def test_what_was_not_written_is_known_not_to_be_done() -> None:
    connection, _ = connected()
    written = connection.send(b"written")
    await asyncio.sleep(0)
    unwritten = connection.send(b"unwritten")
    connection.connection_lost(ConnectionResetError("gone"))
    with pytest.raises(OutcomeUnknownError, match="may have been done"):
        await written
    with pytest.raises(NotSentError):
        await unwritten


# Callers that leave.


async def test_100_000_cancelled_commands_and_nobody_gets_anothers_reply(
    fault_proxy: FaultProxy, redis_url: str, redis_prefix: str, other: Any
) -> None:
    keys = [f"{redis_prefix}{number}" for number in range(500)]
    other.mset({key: key for key in keys})
    outcomes: Counter[str] = Counter()

    async def ask(provider: RedisProvider, key: str) -> None:
        try:
            answer = await provider.execute("GET", key, repeatable=True)
        except asyncio.CancelledError:
            outcomes["cancelled"] += 1
        else:
            outcomes["right" if answer == key.encode() else "wrong"] += 1

    async with fault_proxy as proxy, RedisProvider(proxy.url_for(redis_url)) as provider:
        loop = asyncio.get_running_loop()
        chaos = random.Random(7)
        for wave in range(50):
            proxy.heal()
            if wave % 5 == 1:
                proxy.delay(chaos.uniform(0, 0.01))
            elif wave % 5 == 2:
                proxy.chop(chaos.randint(1_000, 9_000))
            tasks = [asyncio.create_task(ask(provider, chaos.choice(keys))) for _ in range(2_000)]
            for task in tasks:
                if chaos.random() < 0.6:
                    loop.call_later(chaos.uniform(0, 0.03), task.cancel)
            await asyncio.gather(*tasks, return_exceptions=True)
        proxy.heal()
        for key in keys:
            assert await provider.execute("GET", key) == key.encode()
    assert outcomes["wrong"] == 0
    assert outcomes["right"] > 10_000
    assert outcomes["cancelled"] > 10_000


async def test_cancelled_while_connecting(fault_proxy: FaultProxy, redis_url: str) -> None:
    async with fault_proxy as proxy:
        proxy.stall()
        async with RedisProvider(proxy.url_for(redis_url)) as provider:
            asking = [asyncio.create_task(provider.ping()) for _ in range(5)]
            await asyncio.sleep(0.02)
            for task in asking[:4]:
                task.cancel()
            proxy.heal()
            assert await asking[4] > 0
            assert await provider.ping() > 0
        outcomes = await asyncio.gather(*asking, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes[:4]] == [asyncio.CancelledError] * 4


async def test_more_than_may_be_in_flight_wait_for_a_place(
    redis_url: str, redis_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_redis_connection, "_IN_FLIGHT", 20)
    async with RedisProvider(redis_url, connections=1) as provider:
        key = redis_prefix + "n"
        tasks = [asyncio.create_task(provider.execute("INCR", key)) for _ in range(1_000)]
        await asyncio.sleep(0)
        for task in tasks[::7]:
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        done = [outcome for outcome in outcomes if isinstance(outcome, int)]
        assert len(done) == len({*done}) > 800
        assert await provider.execute("INCR", key) >= len(done) + 1


async def test_closing_fails_those_who_wait_once(fault_proxy: FaultProxy, redis_url: str) -> None:
    async with fault_proxy as proxy:
        provider = RedisProvider(proxy.url_for(redis_url), timeout=0.3)
        async with asyncio.timeout(10), provider:
            proxy.stall()  # nobody is connected yet
            tasks = [asyncio.create_task(provider.ping()) for _ in range(10)]
            await asyncio.sleep(0.01)
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} <= {TimeoutError, RedisConnectionError}
        mine = [task for task in asyncio.all_tasks() if "FaultProxy" not in repr(task)]
        assert mine == [asyncio.current_task()]


def test_the_reader_that_is_used_tells_notices_from_replies() -> None:
    reader = hiredis.Reader()
    reader.feed(PUSH)
    assert type(reader.gets()) is hiredis.PushNotification
