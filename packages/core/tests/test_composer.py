"""The composer: what it opens, in which order, and what it serves."""

import asyncio
import threading
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Self

import pytest

from grelmicro import (
    ComponentAlreadyRegisteredError,
    ComponentNotRegisteredError,
    Grelmicro,
    NoActiveAppError,
)
from grelmicro.cache import Cache, TTLCache
from grelmicro.cache.memory import MemoryCacheAdapter
from grelmicro.errors import OutOfContextError
from grelmicro.providers import Provider, ProviderAdapter
from grelmicro.providers.memory import MemoryProvider
from grelmicro.resilience import Breaker, RateLimit
from grelmicro.sync import Sync

Log = list[str]


class Item:
    """An async context manager that tells what happens to it, and fails where it is asked to."""

    def __init__(self, name: str, log: Log, *, fails: str = "") -> None:
        self.name, self._log, self._fails = name, log, fails

    async def __aenter__(self) -> Self:
        await asyncio.sleep(0)
        if "open" in self._fails:
            raise ConnectionError(f"{self.name} does not open")
        self._log.append(f"+{self.name}")
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        self._log.append(f"-{self.name}")
        if "close" in self._fails:
            raise ConnectionError(f"{self.name} does not close")
        return "swallow" in self._fails


class Scheduler(Item):
    """A component of somebody else's kind."""

    kind = "scheduler"


class FakeProvider(Provider):
    """A provider of caches that tells what happens to it."""

    short_name = "fake"

    def __init__(self, name: str, log: Log) -> None:
        self._item = Item(name, log)

    async def __aenter__(self) -> Self:
        await self._item.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._item.__aexit__(exc_type, exc, traceback)

    def cache(self, **kwargs: Any) -> MemoryCacheAdapter:
        return FakeAdapter(provider=self)

    def __repr__(self) -> str:
        return f"FakeProvider({self._item.name!r})"


class FakeAdapter(ProviderAdapter[FakeProvider], MemoryCacheAdapter):
    """A cache in memory that borrows a provider as one on a server would."""

    def __init__(self, *, provider: FakeProvider | None = None, log: Log | None = None) -> None:
        MemoryCacheAdapter.__init__(self)
        ProviderAdapter.__init__(
            self, provider=provider, make=lambda: FakeProvider("own", log if log else [])
        )


class FakeSync:
    """The least that a synchronization backend is."""

    _loop = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None: ...

    async def acquire(self, *, name: str, token: str, duration: float) -> int:
        return 1

    async def release(self, *, name: str, token: str) -> bool:
        return True

    async def locked(self, *, name: str) -> bool:
        return False

    async def owned(self, *, name: str, token: str) -> bool:
        return False


class FakeLimiter:
    """The least that a limiter backend is."""

    _loop = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None: ...

    def bind(self, config: object) -> object:
        return config


class FakeBreaker(FakeLimiter):
    """The least that a breaker backend is."""

    bind = None  # type: ignore[assignment]  # it is no limiter

    def circuit(self, *, name: str, config: object) -> object:
        return name, config


async def test_items_open_in_order_and_close_in_reverse() -> None:
    log: Log = []
    micro = Grelmicro(uses=[Item("a", log), Scheduler("b", log), FakeProvider("c", log)])
    async with micro:
        assert log == ["+a", "+b", "+c"]
    assert log == ["+a", "+b", "+c", "-c", "-b", "-a"]
    async with micro:  # again
        assert micro.is_open
    assert log[6:] == log[:6]


@pytest.mark.parametrize("other", ["", "close", "swallow"])
async def test_a_failure_while_opening_closes_what_was_open(other: str) -> None:
    log: Log = []
    failing = Item("c", log, fails="open")
    micro = Grelmicro(uses=[Item("a", log, fails=other), Item("b", log), failing, Item("d", log)])
    with pytest.raises(ConnectionError, match="c does not open"):
        await micro.__aenter__()
    assert log == ["+a", "+b", "-b", "-a"]
    assert not micro.is_open
    with pytest.raises(NoActiveAppError):
        Grelmicro.current()


async def test_a_cancellation_while_opening_closes_what_was_open() -> None:
    log: Log = []
    opening = asyncio.create_task(Grelmicro(uses=[Item("a", log), Item("b", log)]).__aenter__())
    while not log:  # noqa: ASYNC110  # it is the cancelled await that the test is about
        await asyncio.sleep(0)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    assert log == ["+a", "-a"]


async def test_a_failing_close_keeps_no_other_from_closing() -> None:
    log: Log = []
    with pytest.raises(ConnectionError, match="b does not close"):
        async with Grelmicro(uses=[Item("a", log), Item("b", log, fails="close")]):
            pass
    assert log[2:] == ["-b", "-a"]
    with pytest.raises(NoActiveAppError):
        Grelmicro.current()


async def test_bare_adapters_are_wrapped_in_their_component() -> None:
    cache, sync, limiter, breaker = MemoryCacheAdapter(), FakeSync(), FakeLimiter(), FakeBreaker()
    micro = Grelmicro(uses=[cache, sync, limiter, breaker])
    assert [type(each) for each in micro.components] == [Cache, Sync, RateLimit, Breaker]
    assert micro.cache.backend is cache
    assert micro.sync.backend is sync
    assert micro.ratelimiter.backend is limiter
    assert micro.circuitbreaker.backend is breaker


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (MemoryCacheAdapter, "pass an instance"),
        (object(), r"uses\[0\]: expected a component"),
        ("redis://localhost", "not a str"),
    ],
)
def test_what_cannot_be_used_is_named(item: object, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        Grelmicro(uses=[item])


def test_an_adapter_of_two_kinds_has_to_be_wrapped() -> None:
    class Both(MemoryCacheAdapter):
        acquire = release = locked = owned = MemoryCacheAdapter.get

    with pytest.raises(TypeError, match=r"wrap it in Cache\(...\) or Sync\(...\)"):
        Grelmicro(uses=[Both()])


def test_kind_and_name_are_taken_once() -> None:
    with pytest.raises(ComponentAlreadyRegisteredError, match="another name="):
        Grelmicro(uses=[MemoryCacheAdapter(), MemoryCacheAdapter()])
    provider = MemoryProvider()
    with pytest.raises(ComponentAlreadyRegisteredError, match="twice"):
        Grelmicro(uses=[provider, provider])


async def test_entering_twice_and_adding_late_are_errors() -> None:
    micro = Grelmicro()
    async with micro:
        with pytest.raises(OutOfContextError, match="open already"):
            await micro.__aenter__()
        with pytest.raises(OutOfContextError, match="before entering"):
            micro.use(MemoryCacheAdapter())
        assert micro.is_open
    with pytest.raises(OutOfContextError, match="not open"):
        await micro.__aexit__(None, None, None)


@pytest.mark.parametrize("listed_after", [True, False])
async def test_a_borrowed_provider_has_to_be_listed_first(listed_after: bool) -> None:
    log: Log = []
    provider = FakeProvider("p", log)
    uses = [Cache(provider), provider] if listed_after else [Cache(provider)]
    where = "is listed after" if listed_after else "is not listed in"
    micro = Grelmicro(uses=uses)
    with pytest.raises(UserWarning, match=where):  # warnings are errors here
        await micro.__aenter__()
    assert log == []
    with pytest.warns(UserWarning, match=where):
        async with micro:
            pass


async def test_one_provider_is_a_whole_wiring() -> None:
    log: Log = []
    provider = FakeProvider("p", log)
    async with Grelmicro(uses=[provider]) as micro:
        assert micro.cache.provider is provider
        assert micro.components == ()
        cache = TTLCache[bytes]()
        await cache.set("k", b"v")
        assert await cache.get("k") == b"v"
        with pytest.raises(ComponentNotRegisteredError, match="no sync component"):
            micro.get("sync")
    assert log == ["+p", "-p"]


async def test_two_providers_that_could_serve_are_both_named() -> None:
    one, two = FakeProvider("one", []), FakeProvider("two", [])
    async with Grelmicro(uses=[one, two]):
        with pytest.raises(ComponentNotRegisteredError, match=r"'one'.* and .*'two'.*could both"):
            await TTLCache[bytes]().get("k")


async def test_a_claimed_kind_is_not_implied() -> None:
    async with Grelmicro(uses=[MemoryProvider(), Cache(MemoryCacheAdapter(), name="a")]) as micro:
        assert micro.cache.name == "a"  # the only one
        with pytest.raises(ComponentNotRegisteredError, match="cache 'a'"):
            micro.get("cache")


def test_an_attribute_that_is_not_there_tells_what_is() -> None:
    micro = Grelmicro(
        uses=[Cache(MemoryCacheAdapter(), name="a"), Cache(MemoryCacheAdapter(), name="b")]
    )
    with pytest.raises(AttributeError, match="cache 'a', cache 'b'"):
        _ = micro.cache
    assert not hasattr(micro, "scheduler")


async def test_adapters_that_would_make_equal_providers_share_one() -> None:
    log: Log = ["start"]
    first, second = FakeAdapter(log=log), FakeAdapter(log=log)
    uses = [Cache(first, name="1"), Cache(second, name="2")]
    async with Grelmicro(uses=uses):
        assert first.provider is second.provider
        assert log == ["start", "+own"]
    assert log == ["start", "+own", "-own"]
    assert first.provider is not second.provider
    async with second:  # by itself again
        assert log[3:] == ["+own"]


async def test_an_override_is_for_the_block_and_app_wide() -> None:
    original = MemoryCacheAdapter()
    async with Grelmicro(uses=[original]) as micro:
        async with micro.override(MemoryCacheAdapter()), micro.override(MemoryCacheAdapter()):
            inner = micro.cache.backend
            assert await asyncio.to_thread(lambda: Grelmicro.current().cache.backend) is inner
        assert micro.cache.backend is original
        with pytest.raises(ZeroDivisionError):
            async with micro.override(MemoryCacheAdapter()):
                _ = 1 / 0
        assert micro.cache.backend is original
        with pytest.raises(ConnectionError):
            async with micro.override(MemoryCacheAdapter(), Scheduler("x", [], fails="open")):
                pass
        assert micro.cache.backend is original
    with pytest.raises(OutOfContextError):
        await micro.override(MemoryCacheAdapter()).__aenter__()


async def test_overlapping_overrides_may_end_in_any_order() -> None:
    first, second = MemoryCacheAdapter(), MemoryCacheAdapter()
    async with Grelmicro(uses=[MemoryCacheAdapter()]) as micro:
        original = micro.cache.backend
        one, two = micro.override(first), micro.override(second)
        await one.__aenter__()
        await two.__aenter__()
        await one.__aexit__(None, None, None)
        assert micro.cache.backend is second
        await two.__aexit__(None, None, None)
        assert micro.cache.backend is original


async def test_requests_in_other_contexts_find_the_app_of_the_process() -> None:
    @asynccontextmanager
    async def lifespan() -> AsyncGenerator[None]:
        async with micro:
            ready.set()
            yield

    async def serve() -> None:
        async with lifespan():
            await done.wait()

    micro, ready, done = Grelmicro(), asyncio.Event(), asyncio.Event()
    server = asyncio.create_task(serve())
    await ready.wait()
    found: list[object] = [Grelmicro.current()]
    thread = threading.Thread(target=lambda: found.append(Grelmicro.current()))
    thread.start()
    await asyncio.to_thread(thread.join)
    assert found == [micro, micro]
    done.set()
    await server
    with pytest.raises(NoActiveAppError, match="no app is open"):
        Grelmicro.current()


async def test_of_several_apps_the_contexts_own_is_current() -> None:
    async def alone() -> None:
        with pytest.raises(NoActiveAppError, match="2 apps are open"):
            Grelmicro.current()

    outside = asyncio.get_running_loop()
    outer, inner = Grelmicro(), Grelmicro()
    context_of_nobody = __import__("contextvars").copy_context()
    async with outer:
        async with inner:
            assert Grelmicro.current() is inner
            await outside.create_task(alone(), context=context_of_nobody)
        assert Grelmicro.current() is outer
