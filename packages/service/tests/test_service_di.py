"""Adapters of every kind, and where their parameters come from."""

from collections.abc import Iterator
from typing import Any, Generic, Optional, Self, TypeVar

import pytest

from grelmicro.inject import GraphError
from grelmicro.service import context, di

T = TypeVar("T")


class Bar:
    def __init__(self, label: str = "bar") -> None:
        self.label = label


class Foo:
    def __init__(self, bar: Bar | None = None) -> None:
        self.bar = bar

    @classmethod
    async def adapt(cls, baz: str) -> "Foo":
        foo = cls()
        vars(foo)["baz"] = baz
        return foo


class Other(Foo):
    pass


async def with_bar(bar: Bar) -> Foo:
    return Foo(bar)


@pytest.fixture(autouse=True)
def own_context() -> Iterator[None]:
    with context.child():
        yield


async def test_the_first_whose_needs_can_be_met() -> None:
    di.register(Foo.adapt)
    di.register(with_bar)
    assert (await di.nject(Foo, baz="baz")).bar is None
    bar = Bar()
    assert (await di.nject(Foo, bar=bar)).bar is bar


async def test_registration_order_decides_between_two_that_can() -> None:
    di.register(_labelled("first"))
    di.register(_labelled("second"))
    assert (await di.nject(Bar)).label == "first"


def _labelled(label: str) -> Any:
    def make() -> Bar:
        return Bar(label)

    return make


async def test_all_kinds_of_adapters() -> None:
    class Maker:
        def method(self) -> Bar:
            return Bar("method")

        async def coroutine(self) -> Bar:
            return Bar("coroutine")

        def __call__(self) -> Bar:
            return Bar("object")

    kinds: list[tuple[Any, str]] = [
        (Maker().method, "method"),
        (Maker().coroutine, "coroutine"),
        (Maker(), "object"),
        (Bar, "bar"),
    ]
    for adapter, label in kinds:
        with context.child():
            if label is None:
                with pytest.raises(ValueError, match="returns"):
                    di.register(adapter)
                continue
            di.register(adapter)
            assert (await di.nject(Bar)).label == label


async def test_a_generic_class_method_makes_what_is_asked_for() -> None:
    class Base:
        @classmethod
        async def adapt(cls: type[T], bar: Bar) -> T:  # noqa: PYI019 - both ways work
            made = cls()
            vars(made)["bar"] = bar
            return made

    class Derived(Base):
        pass

    class Own(Base):
        @classmethod
        async def adapt(cls, bar: Bar | None = None) -> Self:
            return cls()

    di.register(Base.adapt)
    bar = context.add(Bar())
    made = await di.nject(Derived)
    assert type(made) is Derived
    assert vars(made)["bar"] is bar
    assert type(await di.nject(Base)) is Base
    assert not hasattr(await di.nject(Own), "bar")
    with pytest.raises(LookupError):
        await di.nject(Foo)


async def test_a_generic_class_by_its_arguments() -> None:
    class Repository(Generic[T]):
        def __init__(self, label: str) -> None:
            self.label = label

    class Bars(Repository[Bar]):
        pass

    def foos() -> Repository[Foo]:
        return Repository("foos")

    def bars() -> Bars:
        return Bars("bars")

    di.register(foos)
    di.register(bars)
    assert (await di.nject(Repository[Bar])).label == "bars"
    assert (await di.nject(Repository[Foo])).label == "foos"


async def test_keyword_then_name_then_type_then_adapter_then_default() -> None:
    async def make(bar: Bar = Bar("default")) -> Foo:  # noqa: B008 - the default is what is tested
        return Foo(bar)

    async def label() -> str:
        found = (await di.nject(Foo)).bar
        assert found is not None
        return found.label

    di.register(make)
    assert await label() == "default"
    di.register(_labelled("adapter"))
    assert await label() == "adapter"
    context.add(Bar("by type"))
    assert await label() == "by type"
    context.add(Bar("by name"), name="bar")
    assert await label() == "by name"
    keyword = await di.nject(Foo, bar=Bar("keyword"))
    assert keyword.bar is not None
    assert keyword.bar.label == "keyword"


async def test_a_keyword_fills_no_parameter_of_another_name() -> None:
    async def make(bar: Bar, other: Bar | None = None) -> Foo:
        assert other is None
        return Foo(bar)

    di.register(make)
    bar = Bar()
    assert (await di.nject(Foo, bar=bar)).bar is bar
    with pytest.raises(LookupError, match="'bar'"):
        await di.nject(Foo, beer=bar)


async def test_a_keyword_reaches_what_the_adapter_needs() -> None:
    def make_bar(label: str) -> Bar:
        return Bar(label)

    di.register(make_bar)
    di.register(with_bar)
    made = await di.nject(Foo, label="nested")
    assert made.bar is not None
    assert made.bar.label == "nested"


async def test_a_keyword_that_nothing_takes() -> None:
    di.register(_labelled("one"))
    with pytest.raises(TypeError, match="nothing takes 'colour'"):
        await di.nject(Bar, colour="red")


async def test_an_adapter_that_uses_the_keywords_before_one_that_drops_them() -> None:
    def plain() -> Foo:
        return Foo()

    di.register(plain)
    di.register(with_bar)
    bar = Bar()
    assert (await di.nject(Foo)).bar is None
    assert (await di.nject(Foo, bar=bar)).bar is bar


async def test_a_component_is_what_is_asked_for() -> None:
    di.register(with_bar)
    foo = context.add(Foo())
    assert await di.nject(Foo) is foo
    assert await di.nject(Foo, bar=Bar()) is not foo


async def test_what_serves_two_is_made_once_in_a_call_and_anew_in_the_next() -> None:
    class Pair:
        def __init__(self, one: Bar, foo: Foo) -> None:
            self.same = one is foo.bar
            self.bar = one

    for each in (Bar, with_bar, Pair):
        di.register(each)
    first, second = await di.nject(Pair, label="x"), await di.nject(Pair, label="x")
    assert first.same
    assert first.bar is not second.bar


async def test_two_that_need_each_other() -> None:
    def make_bar(foo: Foo) -> Bar:
        raise AssertionError

    di.register(make_bar)
    di.register(with_bar)
    with pytest.raises(GraphError, match=r"make_bar -> with_bar -> make_bar: a cycle"):
        await di.nject(Bar)


async def test_a_cycle_is_no_way_where_there_is_another() -> None:
    def make_bar(foo: Foo) -> Bar:
        raise AssertionError

    di.register(make_bar)
    di.register(Bar)
    di.register(with_bar)
    assert isinstance((await di.nject(Foo)).bar, Bar)


async def test_an_adapter_of_a_derived_class_serves() -> None:
    def make() -> Other:
        return Other()

    di.register(make)
    assert type(await di.nject(Foo)) is Other


async def test_optional_parameters() -> None:
    async def make(bar: Optional[Bar] = None) -> Foo:  # noqa: UP045 - both ways of writing it
        return Foo(bar)

    di.register(make)
    assert (await di.nject(Foo)).bar is None
    bar = context.add(Bar())
    assert (await di.nject(Foo)).bar is bar


async def test_what_is_missing_is_named() -> None:
    with pytest.raises(LookupError, match=r"nject\(Foo\): nothing makes it: register an adapter"):
        await di.nject(Foo)
    di.register(with_bar)
    with pytest.raises(LookupError, match=r"with_bar.*'bar' \(Bar\) cannot be had"):
        await di.nject(Foo)


async def test_what_changes_is_seen() -> None:
    di.register(with_bar)
    with context.child():
        with pytest.raises(LookupError):
            await di.nject(Foo)
        one = context.add(Bar())
        assert (await di.nject(Foo)).bar is one
        two = context.add(Bar())
        assert (await di.nject(Foo)).bar is two
        with context.child():
            three = context.add(Bar())
            assert (await di.nject(Foo)).bar is three
        assert (await di.nject(Foo)).bar is two
    with pytest.raises(LookupError):
        await di.nject(Foo)


async def test_an_error_of_an_adapter_reaches_the_caller() -> None:
    def make() -> Bar:
        raise ConnectionError("down")

    di.register(make)
    with pytest.raises(ConnectionError, match="down"):
        await di.nject(Bar)


def test_generators_are_refused() -> None:
    def make() -> Iterator[Bar]:
        yield Bar()

    with pytest.raises(ValueError, match=r"teardown\.enter"):
        di.register(make)
