"""Streams of replies, whole, torn and wrong: each caller gets its own, or a clear error."""

import asyncio
import math
import socket
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from redis.exceptions import MovedError, NoScriptError, ReadOnlyError, ResponseError

from grelmicro.providers._redis_connection import Connection, NotSentError
from grelmicro.providers.redis import OutcomeUnknownError, RedisProvider

Reply = tuple[bytes, object]
"""What a server writes, and what the caller has to get."""


class Refused:
    """An error that a server answers with, of a certain class and text."""

    def __init__(self, kind: type[Exception], text: str) -> None:
        self.kind, self.text = kind, text

    def __eq__(self, other: object) -> bool:
        return type(other) is self.kind and str(other) == self.text

    __hash__ = None  # type: ignore[assignment]  # it stands for an error, which nobody looks up

    def __repr__(self) -> str:
        return f"{self.kind.__name__}({self.text!r})"


def bulk(data: bytes) -> Reply:
    return b"$%d\r\n%s\r\n" % (len(data), data), data


def verbatim(data: bytes) -> Reply:
    return b"=%d\r\ntxt:%s\r\n" % (len(data) + 4, data), data


def double(number: float) -> Reply:
    return f",{number!r}\r\n".encode(), number


BULKS = st.binary(max_size=40) | st.sampled_from([b"", b"\r\n", b"$5\r\n", b"\x00\xff"])
HASHABLE: st.SearchStrategy[Reply] = st.one_of(
    BULKS.map(bulk),
    BULKS.map(verbatim),
    st.integers(-(2**63), 2**63 - 1).map(lambda number: (b":%d\r\n" % number, number)),
    st.integers(2**64, 2**200).map(lambda number: (b"(%d\r\n" % number, b"%d" % number)),
    st.booleans().map(lambda value: (b"#t\r\n" if value else b"#f\r\n", value)),
    st.floats(allow_nan=False, allow_infinity=False).map(double),
    st.sampled_from([(b",inf\r\n", math.inf), (b",-inf\r\n", -math.inf)]),
    st.sampled_from([b"OK", b"", b"PONG", b"\xff\xfe"]).map(lambda it: (b"+%s\r\n" % it, it)),
    st.sampled_from([(b"_\r\n", None), (b"$-1\r\n", None), (b"*-1\r\n", None)]),
)
ERRORS: st.SearchStrategy[Reply] = st.sampled_from(
    [
        (b"-ERR no\r\n", Refused(ResponseError, "no")),
        (b"-WRONGTYPE it is\r\n", Refused(ResponseError, "WRONGTYPE it is")),
        (b"-ERR \xff\xfe\r\n", Refused(ResponseError, "\ufffd\ufffd")),
        (b"-NOSCRIPT no\r\n", Refused(NoScriptError, "no")),
        (b"-READONLY no\r\n", Refused(ReadOnlyError, "no")),
        (b"-MOVED 7 h:1\r\n", Refused(MovedError, "7 h:1")),
        (b"-MOVED nowhere\r\n", Refused(ResponseError, "MOVED nowhere")),
        (b"-\r\n", Refused(ResponseError, "")),
    ]
)


def several(sign: bytes, inner: st.SearchStrategy[Reply]) -> st.SearchStrategy[Reply]:
    def put_together(parts: list[Reply]) -> Reply:
        raw = b"".join(raw for raw, _ in parts)
        return b"%s%d\r\n%s" % (sign, len(parts), raw), [value for _, value in parts]

    return st.lists(inner, max_size=4).map(put_together)


def maps(inner: st.SearchStrategy[Reply]) -> st.SearchStrategy[Reply]:
    def put_together(parts: list[tuple[Reply, Reply]]) -> Reply:
        raw = b"".join(key + value for (key, _), (value, _) in parts)
        return b"%%%d\r\n%s" % (len(parts), raw), {key: value for (_, key), (_, value) in parts}

    entries = st.tuples(HASHABLE, inner)  # no server sends a key twice; 0 and 0.0 are one, to us
    return st.lists(entries, max_size=3, unique_by=lambda entry: entry[0][1]).map(put_together)


REPLIES = ERRORS | st.recursive(
    HASHABLE | ERRORS,
    lambda inner: several(b"*", inner) | several(b"~", inner) | maps(inner),
    max_leaves=8,
)
NOTICES = st.sampled_from(
    [b"", b">2\r\n+invalidate\r\n*1\r\n$1\r\nk\r\n", b">0\r\n", b">1\r\n-ERR x\r\n"]
)


def exact(value: Any) -> Any:
    """A value with all types in it, as 1, 1.0 and True are equal."""
    if isinstance(value, list):
        return [exact(each) for each in value]
    if isinstance(value, dict):
        return [(exact(key), exact(each)) for key, each in value.items()]
    return value if isinstance(value, Exception | Refused) else (type(value).__name__, repr(value))


@asynccontextmanager
async def wired() -> AsyncGenerator[tuple[Connection, socket.socket]]:
    """A connection with a real transport, and the server's end of it."""
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    connection = Connection(timeout=60, changed=lambda _: None)
    await asyncio.get_running_loop().create_connection(lambda: connection, sock=ours)
    connection.open_up()
    try:
        yield connection, theirs
    finally:
        theirs.close()
        connection.lose("the test is over")
        await connection.ended


def pieces_of(stream: bytes, cuts: Iterable[int]) -> list[bytes]:
    edges = sorted({0, len(stream), *(cut % (len(stream) + 1) for cut in cuts)})
    return [stream[start:end] for start, end in pairwise(edges)]


CUTS = st.lists(st.integers(0, 2**16), max_size=12)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(NOTICES, REPLIES), min_size=1, max_size=8), CUTS, st.booleans())
def test_any_stream_in_any_pieces(
    parts: list[tuple[bytes, Reply]], cuts: list[int], every: bool
) -> None:
    stream = b"".join(notice + raw for notice, (raw, _) in parts)
    pieces = pieces_of(stream, range(len(stream)) if every and len(stream) < 300 else cuts)

    async def feed() -> list[Any]:
        async with asyncio.timeout(20), wired() as (connection, _):
            futures = [connection.send(b"command") for _ in parts]
            for piece in pieces:
                connection.data_received(piece)
            return await asyncio.gather(*futures, return_exceptions=True)

    replies = asyncio.run(feed())
    assert [exact(reply) for reply in replies] == [exact(value) for _, (_, value) in parts]


@settings(max_examples=100, deadline=None)
@given(st.lists(REPLIES, min_size=2, max_size=8), CUTS, st.data())
def test_through_a_socket_while_callers_leave(
    parts: list[Reply], cuts: list[int], data: st.DataObject
) -> None:
    leaving = data.draw(st.sets(st.integers(0, len(parts) - 1), max_size=len(parts) - 1))
    pieces = pieces_of(b"".join(raw for raw, _ in parts), cuts)

    async def feed() -> list[Any]:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(20), wired() as (connection, server):
            futures = [connection.send(b"command") for _ in parts]
            left = sorted(leaving)
            for piece in pieces:
                if left:
                    futures[left.pop()].cancel()
                await loop.sock_sendall(server, piece)
                await asyncio.sleep(0)
            return await asyncio.gather(*futures, return_exceptions=True)

    for position, (reply, (_, value)) in enumerate(zip(asyncio.run(feed()), parts, strict=True)):
        if not (position in leaving and isinstance(reply, asyncio.CancelledError)):
            assert exact(reply) == exact(value)


@settings(max_examples=200, deadline=None)
@given(st.lists(REPLIES, min_size=1, max_size=6), st.integers(0, 2**16), st.integers(0, 3))
def test_a_stream_that_ends_at_any_byte(parts: list[Reply], end: int, unsent: int) -> None:
    stream = b"".join(raw for raw, _ in parts)
    end %= len(stream) + 1

    async def feed() -> list[Any]:
        async with asyncio.timeout(20), wired() as (connection, server):
            futures = [connection.send(b"command") for _ in parts]
            await asyncio.sleep(0)  # they are written
            futures += [connection.send(b"unsent") for _ in range(unsent)]
            connection.data_received(stream[:end])
            server.close()
            connection.lose("the server closed it")
            return await asyncio.gather(*futures, return_exceptions=True)

    replies = asyncio.run(feed())
    size = 0
    for reply, (raw, value) in zip(replies, parts, strict=False):
        size += len(raw)
        if size <= end:
            assert exact(reply) == exact(value)
        else:
            assert isinstance(reply, OutcomeUnknownError)
            assert "may have been done" in str(reply)
    assert [type(reply) for reply in replies[len(parts) :]] == [NotSentError] * unsent


GARBAGE = st.sampled_from(
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\x15\x03\x03\x00\x02\x02\x50",
        b":one\r\n",
        b"$x\r\n",
        b"*99999999999999999999\r\n",
        b",1.2.3\r\n",
        b"*2\r\n+a\r\n@\r\n",
        b"#maybe\r\n",
        b"\r\n",
    ]
)


@settings(max_examples=100, deadline=None)
@given(st.lists(REPLIES, max_size=4), GARBAGE, st.integers(1, 3), CUTS)
def test_what_is_no_reply_fails_what_is_in_flight_and_nothing_else(
    parts: list[Reply], garbage: bytes, more: int, cuts: list[int]
) -> None:
    pieces = pieces_of(b"".join(raw for raw, _ in parts) + garbage, cuts)

    async def feed() -> list[Any]:
        async with asyncio.timeout(20), wired() as (connection, _):
            futures = [connection.send(b"command") for _ in range(len(parts) + more)]
            await asyncio.sleep(0)
            for piece in pieces:
                connection.data_received(piece)
            assert not connection.usable
            replies = await asyncio.gather(*futures, return_exceptions=True)
            await connection.ended
            with pytest.raises(NotSentError):
                await connection.send(b"command")
            return replies

    replies = asyncio.run(feed())
    got = zip(replies, parts, strict=False)
    assert all(exact(reply) == exact(value) for reply, (_, value) in got)
    for reply in replies[len(parts) :]:
        assert isinstance(reply, OutcomeUnknownError)
        assert "no reply to a command" in str(reply)


@settings(max_examples=50, deadline=None)
@given(st.lists(REPLIES, min_size=1, max_size=4), REPLIES, CUTS)
def test_a_reply_that_nobody_asked_for_ends_the_connection(
    parts: list[Reply], surplus: Reply, cuts: list[int]
) -> None:
    stream = b"".join(raw for raw, _ in [*parts, surplus])

    async def feed() -> list[Any]:
        async with asyncio.timeout(20), wired() as (connection, _):
            futures = [connection.send(b"command") for _ in parts]
            for piece in pieces_of(stream, cuts):
                connection.data_received(piece)
            assert not connection.usable
            await connection.ended
            return await asyncio.gather(*futures, return_exceptions=True)

    assert [exact(reply) for reply in asyncio.run(feed())] == [exact(value) for _, value in parts]


@pytest.mark.parametrize("key", [b"*1\r\n:1\r\n", b"%1\r\n:1\r\n:1\r\n", b"~0\r\n"])
async def test_a_map_whose_keys_cannot_be_looked_up(
    key: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with asyncio.timeout(20), wired() as (connection, server):
        futures = [connection.send(b"command") for _ in range(2)]
        await asyncio.sleep(0)
        server.send(b"+fine\r\n%1\r\n" + key + b":2\r\n")
        assert await futures[0] == b"fine"
        with pytest.raises(OutcomeUnknownError):
            await futures[1]
    assert caplog.records == []  # it is the caller's news, and no crash of the loop's callbacks


async def test_a_script_that_answers_so_is_its_callers_trouble(redis_url: str) -> None:
    script = "redis.setresp(3); local it = {}; it[{1}] = 2; return {map=it}"
    async with RedisProvider(redis_url) as provider:
        with pytest.raises((OutcomeUnknownError, ResponseError)):
            await provider.execute("EVAL", script, 0)
        assert await provider.execute("ECHO", "still here") == b"still here"
