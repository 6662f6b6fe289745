"""Everything that does not fit together is told before the first request, each with its path."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable
from typing import TYPE_CHECKING, Annotated, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grelmicro.inject import Container, DeclarationError, GraphError, Use, useprovider

if TYPE_CHECKING:
    from collections import OrderedDict


class Base:
    """A type."""


class Database:
    """A third."""


class One(Base):
    """Another."""


@pytest.fixture
def c() -> Container:
    return Container()


def faults(container: Container) -> list[str]:
    with pytest.raises(GraphError) as raised:
        container.freeze()
    return [re.sub(r" \([^()]*\.py:\d+\)", "", each) for each in raised.value.faults]


def test_all_faults_are_told_at_once_with_their_paths(c: Container) -> None:
    @c.provider
    async def settings(url: str) -> str:
        return url

    @c.provider
    async def redis(settings: str) -> str:
        return settings

    @c.provider
    async def one() -> One:
        return One()

    @c.provider(name="two")
    async def other() -> One:
        return One()

    @c.provider
    async def a(b: int) -> int:
        return b

    @c.provider
    async def b(c: int) -> int:
        return c

    @c.provider(name="c")
    async def third(a: int) -> int:
        return a

    @c.provider(scope="app")
    async def pool(redis: str) -> str:
        return redis

    @c.inject
    @useprovider("nobody")
    async def view(redis: str, any_: Base, one: int) -> None: ...

    found = faults(c)
    assert len(found) == 6
    assert found[0].startswith("view 'view': Base is provided by provider 'one' and provider 'two'")
    assert found[1] == "view 'view': 'one' is annotated int, but the provider 'one' provides One"
    assert found[2].startswith("view 'view': useprovider: nothing provides 'nobody'; there are: a,")
    assert found[3] == "a -> b -> c -> a: a cycle, of provider 'a', provider 'b', provider 'c'"
    assert found[4].endswith("it is app-scoped and needs the request-scoped provider 'redis'")
    assert found[5].startswith(
        "view 'view' -> redis -> provider 'settings': nothing provides 'url'; if scopes are"
    )


def test_places_are_told(c: Container) -> None:
    @c.provider
    async def a(b: int) -> int:
        return b

    with pytest.raises(GraphError, match=re.escape(__file__)):
        c.freeze()


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 60))
def test_cycles_of_any_length_are_named(length: int) -> None:
    c = Container()
    for number in range(length):
        c.provider(_needing(f"p{(number + 1) % length}"), name=f"p{number}")
    (fault,) = faults(c)
    names = " -> ".join(f"p{number}" for number in (*range(length), 0))
    assert fault.startswith(f"{names}: a cycle")


def _needing(name: str) -> Any:
    space: dict[str, Any] = {}
    exec(f"async def provider({name}): return {name}", space)
    return space["provider"]


def test_a_chain_of_thousands_is_no_recursion(c: Container) -> None:
    c.add(1, "p0")
    for number in range(3000):
        c.provider(_needing(f"p{number}"), name=f"p{number + 1}")
    c.inject(_needing("p3000"))
    c.freeze()


def test_a_lazy_provider_does_not_hide_a_cycle(c: Container) -> None:
    @c.provider(lazy=True)
    async def a(b: int) -> int:
        return b

    @c.provider
    async def b(a: Awaitable[int]) -> int:
        return await a

    (fault,) = faults(c)
    assert "a -> b -> a" in fault or "b -> a -> b" in fault


def test_an_unknown_scope_is_refused_where_it_is_declared(c: Container) -> None:
    async def mine() -> None: ...

    session: Any = "session"
    with pytest.raises(
        DeclarationError, match=r"'mine' \(.*\.py:\d+\): scope='session' is unknown"
    ):
        c.provider(mine, scope=session)


def test_lazy_and_app_scoped_is_refused_where_it_is_declared(c: Container) -> None:
    async def mine() -> None: ...

    with pytest.raises(DeclarationError, match=r"'mine' \(.*\.py:\d+\): a lazy provider"):
        c.provider(mine, scope="app", lazy=True)


def test_late_declarations_name_the_thing_and_its_place(c: Container) -> None:
    c.freeze()

    async def mine() -> None: ...

    def adapter() -> One:
        return One()

    here = re.escape(__file__)
    with pytest.raises(DeclarationError, match=rf"provider 'mine' \({here}:\d+\) comes too late"):
        c.provider(mine)
    with pytest.raises(DeclarationError, match=rf"adapter 'adapter' \({here}:\d+\) comes too late"):
        c.register(adapter)
    with pytest.raises(DeclarationError, match="value 'x'"):
        c.add(1, "x")
    with pytest.raises(DeclarationError, match="alias 'a'"):
        c.alias("a", "b")
    with pytest.raises(DeclarationError, match="given x"):
        c.given(x=int)


async def test_what_is_left_can_be_declared_to_again(c: Container) -> None:
    async with c:
        pass
    c.add(1, "one")
    async with c:
        assert c.values["one"] == 1


def test_a_late_view_is_bound_at_once(c: Container) -> None:
    c.add(1, "one")
    c.freeze()

    async def view(one: int, nobody: Base) -> None: ...

    with pytest.raises(GraphError, match="nothing provides the type Base"):
        c.consumer(view, given=())
    c.consumer(view, given=["nobody"])


def test_what_a_view_does_not_pass_is_a_fault_of_that_view(c: Container) -> None:
    @c.provider
    async def user(request: object) -> object:
        return request

    async def http(request: object, user: object) -> None: ...

    async def socket(websocket: object, user: object) -> None: ...

    c.consumer(http, given=["request"])
    c.consumer(socket, given=["websocket"])
    (fault,) = faults(c)
    assert fault == "view 'socket' -> provider 'user': nothing provides 'request'"


def test_annotations_that_contradict_each_other(c: Container) -> None:
    c.add("text", "text")

    @c.provider
    def numbers() -> list[int]:
        return []

    @c.provider(lazy=True)
    def later() -> int:
        return 1

    @c.inject
    async def wrong(text: int, numbers: list[str], later: int) -> None: ...

    @c.inject
    async def right(
        text: str | None, numbers: list[int], later: Awaitable[float], other: int = 1
    ) -> None: ...

    found = faults(c)
    assert [each.partition(": ")[2] for each in found] == [
        "'text' is annotated int, but the value 'text' (a value) provides str",
        "'numbers' is annotated list[str], but the provider 'numbers' provides list[int]",
        "'later' is annotated int, but the lazy provider 'later' provides Awaitable[int]",
    ]


def test_builtins_are_never_looked_up_by_type(c: Container) -> None:
    c.add("text", "text")

    async def view(name: str) -> None: ...

    c.consumer(view, given=())
    assert faults(c) == ["view 'view': nothing provides 'name'"]


async def test_annotations_for_type_checkers_alone_are_bound_by_name(c: Container) -> None:
    @c.provider
    async def ordered() -> OrderedDict[str, int]:
        raise NotImplementedError

    @c.inject
    async def view(ordered: OrderedDict[str, int]) -> str:
        return "bound"

    with c.override(ordered={}):
        async with c:
            assert await view() == "bound"


def test_an_annotation_that_cannot_be_looked_up_says_so(c: Container) -> None:
    async def view(other: OrderedDict[str, int]) -> None: ...

    c.consumer(view, given=())
    (fault,) = faults(c)
    assert "'OrderedDict[str, int]' cannot be looked up (NameError" in fault


def test_an_adapter_that_does_not_say_what_it_returns(c: Container) -> None:
    def adapter(one: int):  # type: ignore[no-untyped-def]  # the fault
        return 1

    with pytest.raises(DeclarationError, match="annotate what it returns"):
        c.register(adapter)


def test_aliases_that_lead_nowhere(c: Container) -> None:
    c.alias("a", "b")
    c.alias("b", "a")
    c.alias("x", "nobody")
    found = faults(c)
    assert len(found) == 2
    assert found[0].startswith("alias 'x' of 'nobody': nothing provides 'nobody'")
    assert found[1] == "'a' and 'b': aliases that lead to each other"


def test_an_unknown_use_is_a_fault(c: Container) -> None:
    @c.inject
    async def view(x: Annotated[int, Use("nobody")] = 1) -> None: ...

    (fault,) = faults(c)
    assert fault.startswith("view 'view': Use('nobody'): nothing provides 'nobody'")


def test_a_reference_to_what_is_no_provider_is_a_fault(c: Container) -> None:
    async def stranger() -> None: ...

    @c.inject
    @useprovider(stranger)
    async def view() -> None: ...

    (fault,) = faults(c)
    assert fault == "view 'view': useprovider: 'stranger' is no provider of this container"
    number: Any = 1
    with pytest.raises(TypeError, match="names and providers"):
        useprovider(number)


def test_explain_and_mermaid(c: Container) -> None:
    @c.provider(scope="app")
    def url() -> str:
        return "sqlite://"

    @c.provider
    async def db(url: str) -> AsyncIterator[Database]:
        with c.override():
            yield Database()

    @c.provider(autouse=True)
    def audit() -> None: ...

    @c.provider(lazy=True)
    async def later(db: Database, size: int = 3) -> int:
        return size

    async def view(request: object, any_: Database, later: Awaitable[int], limit: int = 10) -> None:
        """Never called."""

    c.consumer(view, given=["request"])
    graph = c.freeze()
    text = re.sub(r" \([^()]*\.py:\d+\)", "", graph.explain(view))
    assert text.splitlines() == [
        "view 'view'",
        "  request: passed by the caller",
        "  any_: db, by its type, Database",
        "  later: later, by its name",
        "  limit: its default, 10",
        "in this order:",
        "  audit: request-scoped, a function, of type NoneType, autouse",
        "  url: app-scoped, a function, of type str",
        "  db: request-scoped, an async generator, of type Database, an error is thrown in",
        "    url: url, by its name",
        "  later: request-scoped, a coroutine function, of type int, lazy",
        "    db: db, by its name",
        "    size: its default, 3",
    ]
    assert graph.explain("db").startswith("provider 'db'")
    with pytest.raises(LookupError, match="'nobody'"):
        graph.explain("nobody")
    drawn = graph.mermaid().splitlines()
    assert drawn[0] == "flowchart LR"
    names = dict(re.findall(r'^  (n\d+)[\[(]+"(.*)"[\])]+$', "\n".join(drawn), re.MULTILINE))
    arrows = {tuple(names[n] for n in re.findall(r"n\d+", line)) for line in drawn if "-->" in line}
    assert arrows == {
        ("view", "audit"),
        ("view", "db"),
        ("view", "later"),
        ("db", "url"),
        ("later", "db"),
    }
