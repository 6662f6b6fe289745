"""Backends that fail in bad networks, between processes or after some histories: all are found.

The honest ones here are small clients of a real Redis. Each broken one breaks the clauses that it
is registered for, and no other of these.
"""

import asyncio
import functools
import itertools
import logging
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, Self
from urllib.parse import urlsplit
from uuid import uuid4

import pytest

from grelmicro.cache.memory import MemoryCacheAdapter
from grelmicro.providers import Provider
from grelmicro.providers.memory import MemoryProvider
from grelmicro.sync.memory import MemorySyncAdapter
from grelmicro.testing.conformance import Clause, Subject, clauses

PARTS = ("fault", "processes", "model")
TIMEOUT = 0.2

TAKE = """
local held = redis.call('GET', KEYS[1])
if held and held ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
if held then return tonumber(redis.call('GET', KEYS[2])) end
return redis.call('INCR', KEYS[2])
"""
GIVE = (
    "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"
)


def chosen(*parts: str) -> list[Clause]:
    """The clauses of some parts, of caches and locks."""
    kinds = ("cache", "sync")
    return [each for kind in kinds for each in clauses(kind) if each.id.split(".")[1] in parts]


class Wire:
    """One connection: a question, then its answer; a new one after any trouble."""

    def __init__(self, host: str, port: int) -> None:
        self.address = host, port
        self.turns = asyncio.Lock()
        self.streams: Any = None

    async def ask(self, *words: str | bytes) -> Any:
        async with self.turns:
            try:
                async with asyncio.timeout(TIMEOUT):
                    return await self.exchange(words)
            except BaseException:
                self.drop()
                raise

    async def exchange(self, words: tuple[str | bytes, ...]) -> Any:
        if self.streams is None:
            self.streams = await asyncio.open_connection(*self.address)
        return await self.talk(words)

    async def talk(self, words: tuple[str | bytes, ...]) -> Any:
        reader, writer = self.streams
        writer.write(encoded(words))
        return await answer(reader)

    def drop(self) -> None:
        self.close()

    def close(self) -> None:
        if self.streams is not None:
            self.streams[1].transport.abort()
            self.streams = None


def encoded(words: tuple[str | bytes, ...]) -> bytes:
    parts = [word.encode() if isinstance(word, str) else word for word in words]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(p), p) for p in parts)


async def answer(reader: asyncio.StreamReader) -> Any:
    line = await reader.readuntil(b"\r\n")
    kind, rest = line[:1], line[1:-2]
    if kind == b"$":
        return None if rest == b"-1" else (await reader.readexactly(int(rest) + 2))[:-2]
    return int(rest) if kind == b":" else rest


class Opened:
    """What adapters have in common."""

    _loop: asyncio.AbstractEventLoop | None = None

    def __init__(self, wire: Wire) -> None:
        self.wire = wire

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.wire.close()


class Store(Opened):
    async def get(self, *, key: str) -> Any:
        return await self.wire.ask("GET", key)

    async def set(self, *, key: str, value: bytes, ttl: float) -> None:
        await self.wire.ask("SET", key, value, "PX", str(int(ttl * 1000)))

    async def delete(self, *, key: str) -> None:
        await self.wire.ask("DEL", key)

    async def clear(self) -> None:
        raise NotImplementedError


class Leases(Opened):
    async def acquire(self, *, name: str, token: str, duration: float) -> Any:
        lease = str(int(duration * 1000))
        return await self.wire.ask("EVAL", TAKE, "2", name, "numbers", token, lease)

    async def release(self, *, name: str, token: str) -> bool:
        return bool(await self.wire.ask("EVAL", GIVE, "1", name, token))

    async def locked(self, *, name: str) -> bool:
        return bool(await self.wire.ask("EXISTS", name))

    async def owned(self, *, name: str, token: str) -> bool:
        return bool(await self.wire.ask("GET", name) == token.encode())


class WireProvider(Provider):
    """Makes adapters over a wire of some sort."""

    short_name = "wire"
    wire: ClassVar[type[Wire]] = Wire

    def __init__(self, url: str, prefix: str) -> None:
        where = urlsplit(url)
        assert where.hostname is not None
        assert where.port is not None
        self._address = where.hostname, where.port
        self._prefix = prefix

    def cache(self, **_: Any) -> Any:
        return Named(Store(self.wire(*self._address)), self._prefix)

    def sync(self, **_: Any) -> Any:
        return Named(Leases(self.wire(*self._address)), self._prefix)


class Named:
    """An adapter whose keys and names begin with a prefix."""

    def __init__(self, adapter: Any, prefix: str) -> None:
        self._adapter = adapter
        self._prefix = prefix

    async def __aenter__(self) -> Self:
        await self._adapter.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._adapter.__aexit__(*exc)

    def __getattr__(self, method: str) -> Any:
        called = getattr(self._adapter, method)
        first = "key" if isinstance(self._adapter, Store) else "name"
        return lambda **given: called(**given | {first: self._prefix + given[first]})


def over(wire: type[Wire], url: str) -> Subject:
    made = type(f"{wire.__name__}Provider", (WireProvider,), {"wire": wire})
    make = functools.partial(made, prefix=f"{uuid4().hex}:")
    return Subject(wire.__name__, lambda: make(url), endpoint=url, at=make)


GALLERY: dict[type[Wire], set[str]] = {}


def breaks(*faults: str) -> Callable[[type[Wire]], type[Wire]]:
    """Register a broken wire for the faults that find it out."""

    def register(wire: type[Wire]) -> type[Wire]:
        GALLERY[wire] = {*faults}
        return wire

    return register


@breaks("stall")
class WaitsForEver(Wire):
    async def ask(self, *words: str | bytes) -> Any:
        async with self.turns:
            try:
                return await self.exchange(words)
            except BaseException:
                self.drop()
                raise


@breaks("cut", "refuse", "half_close", "stall")
class NeverConnectsAgain(Wire):
    was_connected = False

    async def exchange(self, words: tuple[str | bytes, ...]) -> Any:
        if self.streams is None and self.was_connected:
            raise ConnectionError("it was closed")
        self.was_connected = True
        return await super().exchange(words)


@breaks("stall")
class ReadsTheAnswersOfOthers(Wire):
    """After a timeout it goes on with the connection, on which the answer is still to come."""

    async def ask(self, *words: str | bytes) -> Any:
        async with self.turns:
            try:
                async with asyncio.timeout(TIMEOUT):
                    return await self.exchange(words)
            except TimeoutError:
                raise
            except BaseException:
                self.drop()
                raise


@breaks("half_close")
class MissesTheEnd(Wire):
    """It takes the end of a stream for an answer that has not come yet."""

    async def talk(self, words: tuple[str | bytes, ...]) -> Any:
        try:
            return await super().talk(words)
        except asyncio.IncompleteReadError:
            raise TimeoutError from None

    def drop(self) -> None:
        if self.streams is None:
            return
        reader, writer = self.streams
        if writer.is_closing() or not reader.at_eof():
            super().drop()


@breaks("delay", "stall")
class OneAtATime(Wire):
    """A second question has to come later, it says."""

    async def ask(self, *words: str | bytes) -> Any:
        if self.turns.locked():
            raise RuntimeError("busy")
        return await super().ask(*words)


@breaks("refuse")
class TriesForEver(Wire):
    async def ask(self, *words: str | bytes) -> Any:
        while True:
            try:
                return await super().ask(*words)
            except ConnectionRefusedError:
                await asyncio.sleep(0.01)


@breaks("cut")
class MakesUpAnAnswer(Wire):
    """Whatever was asked of a connection that was lost is said to have been answered."""

    async def ask(self, *words: str | bytes) -> Any:
        try:
            return await super().ask(*words)
        except (asyncio.IncompleteReadError, ConnectionResetError):
            return 7


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What has to end in seconds has to end at once here; what broken ones log is not the news."""
    monkeypatch.setattr("grelmicro.testing.conformance._faults.STALLED", 4 * TIMEOUT)
    monkeypatch.setattr("grelmicro.testing.conformance._faults.HEALED", 4 * TIMEOUT)
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def broken(subject: Subject, candidates: list[Clause]) -> set[str]:
    """The clauses that a subject breaks."""
    found = set()
    for each in candidates:
        assert each.offered_by(subject)
        try:
            each.check(subject)
        except Exception:
            found.add(each.id)
    return found


def test_an_honest_wire_keeps_all(redis_url: str) -> None:
    assert broken(over(Wire, redis_url), chosen("fault")) == set()


@pytest.mark.parametrize("kind", ["cache", "sync"])
@pytest.mark.parametrize("wire", GALLERY, ids=lambda wire: wire.__name__)
def test_a_broken_wire_breaks_what_it_is_registered_for(
    wire: type[Wire], kind: str, redis_url: str
) -> None:
    candidates = [each for each in chosen("fault") if each.kind == kind]
    found = broken(over(wire, redis_url), candidates)
    assert found == {f"{kind}.fault.{fault}" for fault in GALLERY[wire]}


def in_every_process() -> Subject:
    return Subject("memory", MemoryProvider, again=in_every_process)


def test_what_lives_in_one_process_is_found_out() -> None:
    candidates = chosen("processes")
    assert broken(in_every_process(), candidates) == {each.id for each in candidates}


class ForgetsAtTheThirdDelete(MemoryCacheAdapter):
    def __init__(self) -> None:
        super().__init__()
        self.deleted = itertools.count(1)

    async def delete(self, *, key: str) -> None:
        await super().delete(key=key)
        if next(self.deleted) == 3:
            await super().clear()


class CountsAnewAfterTwoReleases(MemorySyncAdapter):
    def __init__(self) -> None:
        super().__init__()
        self.released = itertools.count(1)

    async def release(self, *, name: str, token: str) -> bool:
        found = await super().release(name=name, token=token)
        if found and next(self.released) == 2:
            self._number = 0
        return found


class Forgetful(Provider):
    short_name = "forgetful"

    def cache(self, **_: Any) -> Any:
        return ForgetsAtTheThirdDelete()

    def sync(self, **_: Any) -> Any:
        return CountsAnewAfterTwoReleases()


def test_what_shows_only_after_a_history_is_found() -> None:
    candidates = chosen("model")
    assert broken(Subject("forgetful", Forgetful), candidates) == {each.id for each in candidates}
    assert broken(Subject("memory", MemoryProvider), candidates) == set()


def test_every_one_of_these_clauses_can_be_broken() -> None:
    faults = set().union(*GALLERY.values())
    found = {f"{kind}.fault.{each}" for kind in ("cache", "sync") for each in faults}
    others = {each.id for each in chosen("processes", "model")}
    assert found | others == {each.id for each in chosen(*PARTS)}
