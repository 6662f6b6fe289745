"""What a view gets, from where, how often, and when it ends."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Annotated, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grelmicro.errors import OutOfContextError
from grelmicro.inject import (
    Container,
    DeclarationError,
    GraphError,
    ProviderNotFoundError,
    ProviderYieldError,
    Use,
    useprovider,
)


@pytest.fixture
def c() -> Container:
    return Container()


class Trace(list[str]):
    """What happened, in order."""


async def test_providers_of_every_kind_are_injected(c: Container) -> None:
    trace = Trace()

    @c.provider
    async def coroutine() -> str:
        return "awaited"

    @c.provider
    def plain() -> str:
        return "called"

    @c.provider
    async def agen() -> AsyncIterator[str]:
        yield "yielded"
        trace.append("agen closed")

    @c.provider
    def gen() -> Iterator[str]:
        yield "generated"
        trace.append("gen closed")

    @c.inject
    async def view(coroutine: str, plain: str, agen: str, gen: str) -> list[str]:
        assert not trace
        return [coroutine, plain, agen, gen]

    async with c:
        assert await view() == ["awaited", "called", "yielded", "generated"]
        assert trace == ["gen closed", "agen closed"]
    assert await coroutine() == "awaited"  # it is still itself
    assert plain() == "called"


async def test_an_async_generator_that_is_annotated_with_what_it_yields(c: Container) -> None:
    class Database: ...

    async def db() -> Any:
        yield Database()

    db.__annotations__["return"] = Database  # which type checkers refuse, and people write

    c.provider(db)

    @c.inject
    async def by_type(other: Database) -> object:
        return other

    async with c:
        assert isinstance(await by_type(), Database)


async def test_a_diamond_is_built_once_and_two_tasks_share_it(c: Container) -> None:
    built: list[str] = []

    @c.provider
    async def root() -> object:
        built.append("root")
        await asyncio.sleep(0)
        return object()

    @c.provider
    async def left(root: object) -> object:
        return root

    @c.provider
    async def right(root: object) -> object:
        return root

    async with c, c.scope() as scope:
        names = ["left", "right", "root"] * 4
        found = await asyncio.gather(*(scope.get(name) for name in names))
        assert len({id(each) for each in found}) == 1
    assert built == ["root"]


async def test_a_task_that_is_cancelled_while_building_leaves_it_to_the_one_that_waits(
    c: Container,
) -> None:
    started, go, builds = asyncio.Event(), asyncio.Event(), 0

    @c.provider
    async def slow() -> int:
        nonlocal builds
        builds += 1
        started.set()
        await go.wait()
        return builds

    async with c, c.scope() as scope:
        first = asyncio.create_task(scope.get("slow"))
        await started.wait()
        second = asyncio.create_task(scope.get("slow"))
        third = asyncio.create_task(scope.get("slow"))
        await asyncio.sleep(0)
        first.cancel()
        go.set()
        assert await second == await third == 2
        assert first.cancelled()


async def test_an_error_reaches_everybody_who_waits_and_is_not_kept(c: Container) -> None:
    started, fails = asyncio.Event(), True

    @c.provider
    async def flaky() -> str:
        started.set()
        await asyncio.sleep(0)
        if fails:
            raise ConnectionError("gone")
        return "there"

    async with c, c.scope() as scope:
        found = await asyncio.gather(
            *(scope.get("flaky") for _ in range(3)), return_exceptions=True
        )
        assert [type(each) for each in found] == [ConnectionError] * 3
        fails = False
        assert await scope.get("flaky") == "there"


async def test_an_app_scoped_none_is_built_once(c: Container) -> None:
    built: list[None] = []

    @c.provider(scope="app")
    async def nothing() -> None:
        built.append(None)

    @c.inject
    async def view(nothing: None) -> str:
        return repr(nothing)

    async with c:
        assert await view() == await view() == "None"
    assert built == [None]


async def test_ten_first_uses_at_once_build_an_app_scoped_provider_once(c: Container) -> None:
    built, started, go = 0, asyncio.Event(), asyncio.Event()

    @c.provider(scope="app")
    async def pool() -> object:
        nonlocal built
        built += 1
        started.set()
        await go.wait()
        return object()

    @c.inject
    async def view(pool: object) -> object:
        return pool

    opening = asyncio.create_task(c.__aenter__())
    await started.wait()
    uses = [asyncio.create_task(view()) for _ in range(10)]
    await asyncio.sleep(0)
    go.set()
    await opening
    assert len({id(each) for each in await asyncio.gather(*uses)}) == 1
    assert built == 1
    await c.__aexit__(None, None, None)


async def test_app_teardown_is_reversed_and_goes_on_after_an_error(c: Container) -> None:
    closed: list[str] = []

    @c.provider(scope="app")
    async def one() -> AsyncIterator[int]:
        yield 1
        closed.append("one")

    @c.provider(scope="app")
    async def two(one: int) -> AsyncIterator[int]:
        yield 2
        closed.append("two")
        raise ConnectionError("two")

    @c.provider(scope="app")
    async def three(two: int) -> AsyncIterator[int]:
        yield 3
        closed.append("three")

    with pytest.raises(ConnectionError, match="two"):
        async with c:
            pass
    assert closed == ["three", "two", "one"]
    with pytest.raises(OutOfContextError):
        c.scope()


async def test_a_failed_start_closes_what_was_open_and_another_may_succeed(c: Container) -> None:
    trace, fails = Trace(), True

    @c.provider(scope="app")
    async def one() -> AsyncIterator[int]:
        yield 1
        trace.append("closed")

    @c.provider(scope="app")
    async def two(one: int) -> int:
        if fails:
            raise ConnectionError("down")
        return 2

    with pytest.raises(ConnectionError, match="down"):
        await c.__aenter__()
    assert trace == ["closed"]
    fails = False
    async with c:
        assert c.values["two"] == 2


async def test_opening_twice_is_refused(c: Container) -> None:
    async with c:
        with pytest.raises(OutOfContextError, match="open already"):
            await c.__aenter__()
    async with c:
        pass


async def test_a_name_in_use_goes_over_everything(c: Container) -> None:
    c.add("main", "db")
    c.add("replica", "other")

    @c.inject
    async def view(db: Annotated[str, Use("other")]) -> str:
        return db

    async with c:
        assert await view() == "replica"


async def test_a_default_is_not_displaced_by_a_type(c: Container) -> None:
    class Limit(int): ...

    c.add(Limit(3), "three")
    c.add(7)

    @c.inject
    async def view(limit: Limit = Limit(10), count: int = 5) -> tuple[int, int]:  # noqa: B008
        return limit, count

    async with c:
        assert await view() == (10, 5)


async def test_what_the_caller_passes_is_not_displaced(c: Container) -> None:
    @c.provider(name="request")
    async def displacing() -> str:
        raise AssertionError("nobody asks for it")

    async def view(request: str, pk: int, *args: int, **kwargs: int) -> tuple[Any, ...]:
        return request, pk, args, kwargs

    consumer = c.consumer(view, given=["request", "pk"])
    async with c:
        assert await consumer.run({}, ("real", 1, 2), {"x": 3}) == ("real", 1, (2,), {"x": 3})
        assert await consumer.run({}, (), {"request": "real", "pk": 1}) == ("real", 1, (), {})


async def test_an_argument_that_a_view_does_not_take_raises(c: Container) -> None:
    c.add(1, "one")

    @c.inject
    async def view(one: int) -> int:
        return one

    async with c:
        with pytest.raises(TypeError, match="unexpected keyword argument 'two'"):
            await view(two=2)
        assert await view(one=5) == 5  # what the caller passes comes first


async def test_useprovider_adds_up_and_runs_before_the_views_own(c: Container) -> None:
    trace = Trace()

    @c.provider
    async def own() -> None:
        trace.append("own")

    @c.provider
    async def first() -> None:
        trace.append("first")

    @c.provider(autouse=True)
    async def always() -> None:
        trace.append("always")

    @c.inject
    @useprovider(first, "second")
    @useprovider("third")
    async def view(own: None) -> None:
        trace.append("view")

    @c.provider
    async def third() -> None:
        trace.append("third")

    @c.provider(name="second")
    async def provide_second() -> None:
        trace.append("second")

    async with c:
        await view()
    assert trace == ["always", "first", "second", "third", "own", "view"]


async def test_autouse_with_nested_providers(c: Container) -> None:
    trace = Trace()

    @c.provider
    async def db() -> AsyncIterator[str]:
        trace.append("open")
        yield "db"
        trace.append("close")

    @c.provider(autouse=True)
    async def transaction(db: str) -> AsyncIterator[None]:
        trace.append(f"begin {db}")
        yield
        trace.append("end")

    @c.inject
    async def view() -> None:
        trace.append("view")

    async with c:
        await view()
        assert trace == ["open", "begin db", "view", "end", "close"]
        await c.consumer(lambda: None, autouse=False).run({}, (), {})
        assert len(trace) == 5


async def test_lazy_is_evaluated_once_when_awaited_and_never_else(c: Container) -> None:
    evaluated = 0

    @c.provider
    async def connection() -> AsyncIterator[str]:
        yield "connection"

    @c.provider(lazy=True)
    async def data(connection: str) -> dict[str, int]:
        nonlocal evaluated
        evaluated += 1
        await asyncio.sleep(0)
        return {"evaluated": evaluated}

    @c.inject
    async def twice(data: Awaitable[dict[str, int]]) -> list[dict[str, int]]:
        return [await data, *await asyncio.gather(data, data)]

    @c.inject
    async def never(data: Awaitable[dict[str, int]]) -> None: ...

    async with c:
        await never()
        assert evaluated == 0
        found = await twice()
    assert found == [{"evaluated": 1}] * 3
    assert found[0] is found[1] is found[2]


async def test_a_lazy_that_fails_fails_again_without_being_evaluated(c: Container) -> None:
    calls = 0

    @c.provider(lazy=True)
    async def data() -> int:
        nonlocal calls
        calls += 1
        raise ConnectionError

    @c.inject
    async def view(data: Awaitable[int]) -> Awaitable[int]:
        for _ in range(2):
            with pytest.raises(ConnectionError):
                await data
        return data

    async with c:
        kept = await view()
    assert calls == 1
    with pytest.raises(ConnectionError):
        await kept


async def test_a_lazy_of_a_closed_scope_says_so(c: Container) -> None:
    @c.provider(lazy=True)
    async def data() -> int:
        raise AssertionError

    @c.inject
    async def view(data: Awaitable[int]) -> list[Awaitable[int]]:
        return [data]

    async with c:
        (kept,) = await view()
        with pytest.raises(OutOfContextError, match="closed"):
            await kept


async def test_a_factory(c: Container) -> None:
    @c.provider(scope="app")
    async def notes() -> list[dict[str, Any]]:
        return [{"id": 1, "text": "Groceries"}, {"id": 2, "text": "Make potato mash"}]

    @c.provider
    async def get_note(
        notes: list[dict[str, Any]],
    ) -> Callable[[int], Awaitable[dict[str, Any]]]:
        async def get(pk: int) -> dict[str, Any]:
            return next(note for note in notes if note["id"] == pk)

        return get

    @c.inject
    async def view(pk: int, get_note: Callable[[int], Awaitable[dict[str, Any]]]) -> str:
        return str((await get_note(pk))["text"])

    async with c:
        assert await view(2) == "Make potato mash"


async def test_redeclaring_a_name_replaces_it_for_views_made_earlier(c: Container) -> None:
    @c.provider
    async def greeting() -> str:
        return "old"

    @c.inject
    @useprovider(greeting)
    async def view(greeting: str) -> str:
        return greeting

    @c.provider(name="greeting")
    async def newer() -> str:
        return "new"

    async with c:
        assert await view() == "new"


async def test_override_restores_even_on_error_and_builds_nothing(c: Container) -> None:
    built: list[str] = []

    @c.provider(scope="app")
    async def url() -> str:
        built.append("url")
        return "real"

    @c.provider(scope="app")
    async def redis(url: str) -> str:
        built.append("redis")
        return f"redis at {url}"

    @c.provider(lazy=True)
    async def later(redis: str) -> str:
        return f"later {redis}"

    @c.inject
    async def view(redis: str, later: Awaitable[str]) -> list[str]:
        return [redis, await later]

    with c.override(redis="fake"):
        async with c:
            assert await view() == ["fake", "later fake"]
            assert c.values["redis"] == "fake"
    assert built == ["url"]
    built.clear()
    async with c:
        assert await view() == ["redis at real", "later redis at real"]
        with c.override(redis="fake", later="soon"):
            assert await view() == ["fake", "soon"]
            with c.override(redis="inner"):
                assert (await view())[0] == "inner"
            assert (await view())[0] == "fake"
        with pytest.raises(KeyError), c.override(redis="fake"):
            raise KeyError
        assert await view() == ["redis at real", "later redis at real"]
        with pytest.raises(ProviderNotFoundError, match="'reids'"), c.override(reids=1):
            pass
    assert built == ["url", "redis"]


async def test_what_a_stand_in_kept_from_being_built_is_built_when_it_is_gone(c: Container) -> None:
    @c.provider(scope="app")
    async def redis() -> AsyncIterator[str]:
        yield "real"

    @c.inject
    async def view(redis: str) -> str:
        return redis

    overriding = c.override(redis="fake")
    overriding.__enter__()
    async with c:
        assert await view() == "fake"
        overriding.__exit__(None, None, None)
        assert await view() == "real"


async def test_adapters_by_type_completed_by_their_caller(c: Container) -> None:
    closed: list[object] = []

    class Bar:
        def __init__(self, size: int) -> None:
            self.size = size

    class Foo:
        def __init__(self, bar: Bar, name: str = "foo") -> None:
            self.bar, self.name = bar, name

        @classmethod
        async def make(cls, bar: Bar) -> AsyncIterator["Foo"]:
            yield cls(bar, "made")
            closed.append(bar)

    c.register(Bar)
    c.register(Foo.make)
    async with c:
        async with c.scope() as scope:
            foo = await scope.get(Foo, size=3)
            assert (foo.bar.size, foo.name) == (3, "made")
            assert await scope.get(Foo, size=3) is not foo
            bar = Bar(1)
            assert (await scope.get(Foo, bar=bar)).bar is bar
            with pytest.raises(TypeError, match="missing 'size'"):
                await scope.get(Foo)
            with pytest.raises(TypeError, match="takes no 'colour'"):
                await scope.get(Foo, colour="red", bar=bar)
        assert len(closed) == 3


async def test_alias_of_a_name_and_of_a_type(c: Container) -> None:
    class Base: ...

    class One(Base): ...

    class Two(Base): ...

    c.add(One())
    c.add(Two(), "two")
    c.alias("deux", "zwei")
    c.alias("zwei", "two")
    c.alias(Base, "two")

    @c.inject
    async def view(deux: Base, any_: Base) -> bool:
        return deux is any_

    async with c:
        assert await view()


async def test_what_a_scope_is_given(c: Container) -> None:
    class Request:
        user = "ada"

    c.given(request=Request)

    @c.provider
    async def user(request: Request) -> str:
        return request.user

    @c.provider
    async def by_type(req: Request) -> Request:
        return req

    request = Request()
    async with c:
        async with c.scope(request=request) as scope:
            assert await scope.get("user") == "ada"
            assert await scope.get("by_type") is request
        async with c.scope() as scope:
            with pytest.raises(TypeError, match="missing 'request'"):
                await scope.get("user")


async def test_a_path_parameter_reaches_providers_of_its_name(c: Container) -> None:
    @c.provider
    async def note(pk: int) -> str:
        return f"note {pk}"

    async def view(request: object, note: str) -> str:
        return note

    consumer = c.consumer(view, given=["request", "pk"])
    async with c:
        assert await consumer.run({"request": 1, "pk": 7}, (1,), {}) == "note 7"


@pytest.mark.parametrize("times", [0, 2])
async def test_a_provider_yields_once(c: Container, times: int) -> None:
    closed = False

    @c.provider
    async def wrong() -> AsyncIterator[int]:
        nonlocal closed
        try:
            for number in range(times):
                yield number
        finally:
            closed = True

    @c.inject
    async def view(wrong: int) -> None: ...

    async with c:
        with pytest.raises(ProviderYieldError, match="twice" if times else "without a yield"):
            await view()
    assert closed


async def test_a_function_may_be_called_in_a_scope(c: Container) -> None:
    c.add("db", "database")

    async def view(x: int, database: str) -> tuple[int, str]:
        return x, database

    async with c, c.scope() as scope:
        assert await scope.call(view, 1) == (1, "db")


async def test_a_thousand_requests_at_once_share_nothing_request_scoped(c: Container) -> None:
    opened = closed = 0

    @c.provider(scope="app")
    async def shared() -> object:
        return object()

    @c.provider
    async def own(shared: object) -> AsyncIterator[object]:
        nonlocal opened, closed
        opened += 1
        await asyncio.sleep(0)
        yield object()
        await asyncio.sleep(0)
        closed += 1

    @c.inject
    async def view(own: object, shared: object) -> tuple[object, object]:
        await asyncio.sleep(0)
        return own, shared

    async with c:
        found = await asyncio.gather(*(view() for _ in range(1000)))
    assert len({id(own) for own, _ in found}) == 1000
    assert len({id(shared) for _, shared in found}) == 1
    assert opened == closed == 1000


async def test_values_of_the_app_by_name_and_type(c: Container) -> None:
    class Settings: ...

    @c.provider(scope="app")
    def settings() -> Settings:
        return Settings()

    async with c:
        assert isinstance(c.values["settings"], Settings)
        assert c.values[Settings] is c.values["settings"]
    assert not c.values


async def test_what_nothing_provides_is_told(c: Container) -> None:
    class Unknown: ...

    c.add(1, "one")
    async with c, c.scope() as scope:
        with pytest.raises(ProviderNotFoundError, match="nothing provides 'two'; there are: one"):
            await scope.get("two")
        with pytest.raises(ProviderNotFoundError, match="the type Unknown"):
            await scope.get(Unknown)
    with pytest.raises(OutOfContextError, match="closed"):
        await scope.get("one")


GRAPHS = st.lists(st.lists(st.integers(0, 30), max_size=3, unique=True), min_size=1, max_size=12)


@settings(max_examples=60, deadline=None)
@given(GRAPHS, st.data())
def test_any_graph_is_built_once_in_order_and_closed_in_reverse(
    needs: list[list[int]], data: st.DataObject
) -> None:
    c, opened, closed = Container(), list[str](), list[str]()
    below = {
        f"p{number}": sorted({f"p{each % number}" for each in some} if number else ())
        for number, some in enumerate(needs)
    }
    for name, wanted in below.items():
        c.provider(_tracing(name, wanted, opened, closed), name=name)
    roots = data.draw(st.lists(st.sampled_from(sorted(below)), min_size=1, unique=True))
    view: Any = c.inject(_tracing_view(roots))

    async def run() -> None:
        async with c:
            await view()

    asyncio.run(run())
    assert len(opened) == len(set(opened))
    assert all(opened.index(n) < opened.index(name) for name in opened for n in below[name])
    assert set(roots) <= set(opened)
    assert closed == opened[::-1]


def _tracing(name: str, needs: list[str], opened: list[str], closed: list[str]) -> Any:
    space: dict[str, Any] = {"opened": opened, "closed": closed}
    source = f"""
async def provider({", ".join(needs)}):
    opened.append({name!r})
    yield {name!r}
    closed.append({name!r})
"""
    exec(source, space)
    return space["provider"]


def _tracing_view(needs: list[str]) -> Any:
    space: dict[str, Any] = {}
    exec(f"async def view({', '.join(needs)}): ...", space)
    return space["view"]


async def test_what_is_declared_and_taken_in_can_be_taken_back(c: Container) -> None:
    c.add(5, "five")

    @c.provider(name="six")
    async def provide_six(five: int) -> int:
        return five + 1

    async def view(six: int) -> int:
        return six

    kept = c.consumer(provide_six, given=["five"])
    consumer = c.consumer(view, given=())
    assert [*c.consumers] == [kept, consumer]
    c.freeze()
    with pytest.raises(DeclarationError, match="the removal of 'six' comes too late"):
        c.remove("six")
    with pytest.raises(DeclarationError, match="forgetting views comes too late"):
        c.forget([consumer])
    c.thaw()
    assert "six" in c
    c.remove("six")
    assert "six" not in c
    with pytest.raises(ProviderNotFoundError, match="nothing is declared as 'six'"):
        c.remove("six")
    with pytest.raises(GraphError, match="nothing provides 'six'"):
        c.freeze()
    c.forget([consumer])
    assert [*c.consumers] == [kept]
    async with c:
        assert c.is_open
        with pytest.raises(OutOfContextError, match="the container is open"):
            c.thaw()
        async with c.scope() as scope:
            with pytest.raises(ProviderNotFoundError, match="is no provider of this container"):
                await scope.get(provide_six)
    assert not c.is_open


async def test_a_framework_says_which_provider_a_parameter_means(c: Container) -> None:
    c.add("primary", "store")
    c.add("replica", "other")

    async def view(store: str) -> str:
        return store

    async with c:
        assert await c.consumer(view, given=(), used={"store": "other"}).run(None, (), {}) == (
            "replica"
        )
        with pytest.raises(GraphError, match=r"Use\('missing'\)"):
            c.consumer(view, given=(), used={"store": "missing"})


async def test_what_is_passed_by_place_is_not_injected(c: Container) -> None:
    c.add("injected", "name")

    async def view(name: str, *rest: int) -> list[object]:
        return [name, *rest]

    async with c:
        consumer = c.consumer(view)
        assert await consumer.run(None, ("passed", 1), {}) == ["passed", 1]
        async with c.scope() as scope:
            assert await consumer.run_in(scope, ("passed", 1), {}) == ["passed", 1]


async def test_useprovider_may_stand_above_inject(c: Container) -> None:
    ran: list[str] = []

    @c.provider
    async def log() -> None:
        ran.append("log")

    async def view() -> str:
        return "view"

    @useprovider(log)
    @c.inject
    async def marked() -> str:
        return await view()

    injected = useprovider("log")(c.inject(view))
    plain = c.inject(view)
    async with c:
        await marked()
        await injected()
        assert ran == ["log", "log"]
        await plain()
    assert ran == ["log", "log"]
