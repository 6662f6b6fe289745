"""Backends that fail in bad networks, between processes or after some histories: all are found.

The honest ones here are small clients of a real Redis. Each broken one breaks the clauses that it
is registered for, and no other of these.
"""

import asyncio
import functools
import itertools
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Self
from urllib.parse import urlsplit
from uuid import uuid4

import pytest

from grelmicro.cache.memory import MemoryCacheAdapter
from grelmicro.errors import OutOfContextError
from grelmicro.providers import Provider
from grelmicro.providers.memory import MemoryProvider
from grelmicro.resilience import RateLimitConfig, RateLimitResult
from grelmicro.sync.memory import MemorySyncAdapter
from grelmicro.testing.conformance import Clause, Subject, clauses

Found = Callable[[Subject, Iterable[Clause], set[str]], set[str]]

KINDS = ("provider", "cache", "sync", "ratelimiter")
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
    """The clauses of some parts; those of circuit breakers have a gallery of their own."""
    return [each for kind in KINDS for each in clauses(kind) if each.id.split(".")[1] in parts]


class Wire:
    """One connection: a question, then its answer; a new one after any trouble."""

    def __init__(self, host: str, port: int) -> None:
        self.address = host, port
        self.turns = asyncio.Lock()
        self.streams: Any = None
        self.is_closed = False

    async def ask(self, *words: str | bytes) -> Any:
        async with self.turns:
            try:
                async with asyncio.timeout(TIMEOUT):
                    return await self.exchange(words)
            except BaseException:
                self.drop()
                raise

    async def exchange(self, words: tuple[str | bytes, ...]) -> Any:
        if self.is_closed:
            raise ConnectionError("it is closed")
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

    async def __aexit__(
        self, exc_type: object = None, exc: object = None, traceback: object = None
    ) -> None:
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


class Limits(Opened):
    def __init__(self, wire: Wire, prefix: str) -> None:
        super().__init__(wire)
        self.prefix = prefix

    def bind(self, config: RateLimitConfig) -> Any:
        return Named(Strategy(self.wire, config.limit), self.prefix)


class Strategy:
    """Counts what was asked for, for ever."""

    def __init__(self, wire: Wire, limit: int) -> None:
        self.wire, self.limit = wire, limit

    async def acquire(self, *, key: str, cost: int) -> RateLimitResult:
        left = self.limit - int(await self.wire.ask("INCRBY", key, str(cost)))
        return RateLimitResult(left >= 0, self.limit, left, 0.0 if left >= 0 else 1.0, 1.0)


class WireProvider(Provider):
    """Makes adapters over a wire of some sort, and pings over one of its own."""

    short_name = "wire"
    wire: ClassVar[type[Wire]] = Wire

    def __init__(self, url: str) -> None:
        self._url = url
        where = urlsplit(url)
        assert where.hostname is not None
        assert where.port is not None
        self._address = where.hostname, where.port
        self._prefix = f"{uuid4().hex}:"
        self._pings = self.wire(*self._address)

    async def __aenter__(self) -> Self:
        self._pings.is_closed = False
        return self

    async def __aexit__(
        self, exc_type: object = None, exc: object = None, traceback: object = None
    ) -> None:
        self._pings.close()
        self._pings.is_closed = True

    async def ping(self) -> float:
        if await self._pings.ask("PING") != b"PONG":
            raise ConnectionError("it is no server")
        return 0.001

    def ratelimiter(self, **_: Any) -> Any:
        return Limits(self.wire(*self._address), self._prefix)

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
        first = "name" if isinstance(self._adapter, Leases) else "key"
        return lambda **given: called(**given | {first: self._prefix + given[first]})


def subject(provider: type[WireProvider], url: str) -> Subject:
    secret = urlsplit(url)._replace(netloc="user:%s@localhost:1")
    return Subject(
        provider.__name__,
        lambda: provider(url),
        endpoint=url,
        at=provider,
        guarded=lambda word: provider(secret.geturl() % word),
    )


def over(wire: type[Wire], url: str) -> Subject:
    return subject(type(f"{wire.__name__}Provider", (WireProvider,), {"wire": wire}), url)


GALLERY: dict[type[Wire], set[str]] = {}
PROVIDERS: dict[type[WireProvider], set[str]] = {}


def breaks(*faults: str, **more: tuple[str, ...]) -> Callable[[type[Wire]], type[Wire]]:
    """Register a broken wire for the faults that find it out.

    Args:
        faults: What adapters of every kind break.
        more: What is broken of a kind, or of a provider that pings over it.
    """

    def register(wire: type[Wire]) -> type[Wire]:
        found = dict.fromkeys(KINDS[1:], faults) | more
        GALLERY[wire] = {f"{kind}.fault.{each}" for kind in found for each in found[kind]}
        return wire

    return register


@breaks("stall", provider=("stall",))
class WaitsForEver(Wire):
    async def ask(self, *words: str | bytes) -> Any:
        async with self.turns:
            try:
                return await self.exchange(words)
            except BaseException:
                self.drop()
                raise


@breaks(
    *("cut", "refuse", "half_close", "stall"),
    provider=("cut", "refuse", "half_close", "stall", "opens"),
)
class NeverConnectsAgain(Wire):
    was_connected = False

    async def exchange(self, words: tuple[str | bytes, ...]) -> Any:
        if self.streams is None and self.was_connected:
            raise ConnectionError("it was closed")
        self.was_connected = True
        return await super().exchange(words)


@breaks("stall")  # which one ping cannot tell from another
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


@breaks("half_close", provider=("half_close",))
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


@breaks("delay", "stall", provider=("delay", "stall"))
class OneAtATime(Wire):
    """A second question has to come later, it says."""

    async def ask(self, *words: str | bytes) -> Any:
        if self.turns.locked():
            raise RuntimeError("busy")
        return await super().ask(*words)


@breaks("refuse", provider=("refuse", "opens", "error"))
class TriesForEver(Wire):
    async def ask(self, *words: str | bytes) -> Any:
        while True:
            try:
                return await super().ask(*words)
            except ConnectionRefusedError:
                await asyncio.sleep(0.01)


@breaks("cut", ratelimiter=("cut", "half_close", "refuse"))
class MakesUpAnAnswer(Wire):
    """Whatever was asked of a connection that was lost is said to have been answered."""

    async def ask(self, *words: str | bytes) -> Any:
        try:
            return await super().ask(*words)
        except (asyncio.IncompleteReadError, ConnectionResetError):
            return 7


def found_by(*faults: str) -> Callable[[type[WireProvider]], type[WireProvider]]:
    """Register a broken provider."""

    def register(provider: type[WireProvider]) -> type[WireProvider]:
        PROVIDERS[provider] = {f"provider.fault.{fault}" for fault in faults}
        return provider

    return register


@found_by("error")
class SaysNothing(WireProvider):
    async def ping(self) -> float:
        try:
            return await super().ping()
        except Exception:
            raise ConnectionError from None


@found_by("error")
class SaysThatItIsClosed(WireProvider):
    async def ping(self) -> float:
        try:
            return await super().ping()
        except Exception as error:
            raise OutOfContextError("it is not open") from error


@found_by("opens")
class WaitsForItsServer(WireProvider):
    async def __aenter__(self) -> Self:
        await super().__aenter__()
        while True:
            try:
                await self.ping()
            except OSError:
                await asyncio.sleep(0.01)
            else:
                return self


@found_by("closes")
class TakesItsLeave(WireProvider):
    async def __aexit__(
        self, exc_type: object = None, exc: object = None, traceback: object = None
    ) -> None:
        if self._pings.streams is not None:
            reader, writer = self._pings.streams
            try:
                writer.write(encoded(("QUIT",)))
                await reader.read()
            finally:
                await super().__aexit__()


@found_by("masked")
class ShowsItsUrl(WireProvider):
    async def ping(self) -> float:
        try:
            return await super().ping()
        except Exception as error:
            raise ConnectionError(f"{self._url} does not answer") from error


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """What has to end in seconds has to end at once here."""
    monkeypatch.setattr("grelmicro.testing.conformance._faults.STALLED", 4 * TIMEOUT)
    monkeypatch.setattr("grelmicro.testing.conformance._faults.HEALED", 4 * TIMEOUT)


def test_an_honest_wire_keeps_all(redis_url: str, broken_outside: Found) -> None:
    assert broken_outside(over(Wire, redis_url), chosen("fault"), set()) == set()


@pytest.mark.parametrize("wire", GALLERY, ids=lambda wire: wire.__name__)
def test_a_broken_wire_breaks_what_it_is_registered_for(
    wire: type[Wire], redis_url: str, broken_outside: Found
) -> None:
    found = broken_outside(over(wire, redis_url), chosen("fault"), GALLERY[wire])
    assert found == GALLERY[wire]


@pytest.mark.parametrize("made", PROVIDERS, ids=lambda made: made.__name__)
def test_a_broken_provider_breaks_what_it_is_registered_for(
    made: type[WireProvider], redis_url: str, broken_outside: Found
) -> None:
    candidates = [each for each in chosen("fault") if each.kind == "provider"]
    found = broken_outside(subject(made, redis_url), candidates, PROVIDERS[made])
    assert found == PROVIDERS[made]


def test_what_lives_in_one_process_is_found_out(broken_outside: Found) -> None:
    again = functools.partial(Subject, "memory", MemoryProvider)
    alone = Subject("memory", MemoryProvider, again=again)
    candidates = chosen("processes")
    expected = {each.id for each in candidates}
    assert broken_outside(alone, candidates, expected) == expected


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


def test_what_shows_only_after_a_history_is_found(broken_outside: Found) -> None:
    candidates = [each for each in chosen("model") if each.kind in ("cache", "sync")]
    expected = {each.id for each in candidates}
    assert broken_outside(Subject("forgetful", Forgetful), candidates, expected) == expected
    assert broken_outside(Subject("memory", MemoryProvider), candidates, set()) == set()


def test_every_one_of_these_clauses_can_be_broken() -> None:
    """That of the histories of rate limiters is in another gallery."""
    found = set().union(*GALLERY.values(), *PROVIDERS.values())
    others = {each.id for each in chosen("processes", "model")}
    assert found | others == {each.id for each in chosen(*PARTS)}
