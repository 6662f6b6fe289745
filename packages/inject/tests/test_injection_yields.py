"""The yield rule, on each supported Python: where a generator stands decides what it hears."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator
from typing import Any

import pytest

from grelmicro.inject import Container, _yields
from grelmicro.inject._yields import describe_yields, takes_errors

# ruff: noqa: UP028, SIM105 - the forms themselves are what is tried out


class Manager:
    """Sync and async, and does nothing."""

    def __enter__(self) -> int:
        return 1

    def __exit__(self, *_: object) -> None: ...

    async def __aenter__(self) -> int:
        return 1

    async def __aexit__(self, *_: object) -> None: ...


class Numbers:
    """An async iterator that is no generator."""

    def __aiter__(self) -> "Numbers":
        return self

    async def __anext__(self) -> int:
        return 1


async def bare() -> AsyncIterator[int]:
    await asyncio.sleep(0)
    yield 1
    await asyncio.sleep(0)


async def in_async_with() -> AsyncIterator[int]:
    async with Manager() as value:
        yield value
        await asyncio.sleep(0)


async def in_with() -> AsyncIterator[int]:
    with Manager() as value:
        yield value


async def in_try_finally() -> AsyncIterator[int]:
    try:
        yield 1
    finally:
        await asyncio.sleep(0)


async def in_try_except() -> AsyncIterator[int]:
    try:
        yield 1
    except ValueError:
        pass


async def in_except_star() -> AsyncIterator[int]:
    try:
        yield 1
    except* ValueError:
        pass


async def after_a_try() -> AsyncIterator[int]:
    try:
        await asyncio.sleep(0)
    except OSError:
        pass
    yield 1


async def after_a_with() -> AsyncIterator[int]:
    async with Manager() as value:
        pass
    yield value


async def before_a_with() -> AsyncIterator[int]:
    yield 1
    async with Manager():
        pass


async def in_else() -> AsyncIterator[int]:
    try:
        pass
    except OSError:
        pass
    else:
        yield 1


async def in_an_except() -> AsyncIterator[int]:
    try:
        raise OSError
    except OSError as error:
        yield len(str(error))


async def in_an_except_within_try() -> AsyncIterator[int]:
    try:
        try:
            raise OSError
        except OSError:
            yield 1
    finally:
        await asyncio.sleep(0)


async def in_a_loop() -> AsyncIterator[int]:
    for number in range(3):
        try:
            await asyncio.sleep(0)
        except OSError:
            continue
        yield number
        return


async def in_while() -> AsyncIterator[int]:
    while True:
        yield 1
        break


async def over_an_async_generator() -> AsyncIterator[int]:
    async for each in bare():
        yield each


async def over_an_async_generator_once() -> AsyncIterator[int]:
    async for each in bare():
        yield each
        break


async def over_an_async_iterator() -> AsyncIterator[int]:
    async for each in Numbers():
        yield each
        return


async def over_a_generator() -> AsyncIterator[int]:
    for each in sync_bare():
        yield each


async def with_a_generator_at_hand() -> AsyncIterator[int]:
    at_hand = sync_bare()
    for each in (1,):
        yield each
    at_hand.close()


def sync_bare() -> Generator[int]:
    yield 1


def sync_in_with() -> Iterator[int]:
    with Manager() as value:
        yield value


def sync_in_try() -> Iterator[int]:
    try:
        yield 1
    finally:
        pass


def sync_from_bare() -> Iterator[int]:
    yield from sync_bare()


def sync_from_bare_in_try() -> Iterator[int]:
    try:
        yield from sync_bare()
    finally:
        pass


def sync_from_with() -> Iterator[int]:
    yield from sync_in_with()


def sync_from_a_list() -> Iterator[int]:
    yield from [1]


def sync_over_a_generator() -> Iterator[int]:
    for each in sync_in_with():
        yield each


THROWN = [
    in_async_with,
    in_with,
    in_try_finally,
    in_try_except,
    in_except_star,
    in_an_except_within_try,
    over_an_async_generator,
    over_an_async_generator_once,
    over_an_async_iterator,
    over_a_generator,
    sync_in_with,
    sync_in_try,
    sync_from_bare_in_try,
    sync_from_with,
    sync_over_a_generator,
]
RESUMED = [
    bare,
    after_a_try,
    after_a_with,
    before_a_with,
    in_else,
    in_an_except,
    in_a_loop,
    in_while,
    with_a_generator_at_hand,
    sync_bare,
    sync_from_bare,
    sync_from_a_list,
]


@contextlib.asynccontextmanager
async def suspended(function: Any) -> AsyncGenerator[Any]:
    """A generator at its first yield."""
    generator = function()
    if isinstance(generator, Generator):
        next(generator)
        yield generator
        generator.close()
    else:
        await anext(generator)
        yield generator
        await generator.aclose()


@pytest.mark.parametrize("function", THROWN, ids=lambda each: each.__name__)
async def test_an_error_is_thrown_in(function: Any) -> None:
    async with suspended(function) as generator:
        assert takes_errors(generator)


@pytest.mark.parametrize("function", RESUMED, ids=lambda each: each.__name__)
async def test_a_bare_yield_is_resumed(function: Any) -> None:
    async with suspended(function) as generator:
        assert not takes_errors(generator)


async def test_the_yield_that_is_suspended_decides() -> None:
    async def either(guarded: bool) -> AsyncIterator[int]:
        if guarded:
            with Manager() as value:
                yield value
        else:
            yield 2

    for guarded in (True, False):
        async with suspended(lambda guarded=guarded: either(guarded)) as generator:
            assert takes_errors(generator) is guarded
    assert describe_yields(either).startswith("the yield it stands at decides")


def test_this_python_can_be_read() -> None:
    assert _yields._readable()


async def test_where_nothing_can_be_read_errors_are_thrown_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_yields, "_stack", lambda *_: 1 / 0)
    _yields._readable.cache_clear()
    try:
        assert not _yields._readable()
        async with suspended(bare) as generator:
            assert takes_errors(generator)
        assert describe_yields(bare) == "an error is thrown in"
    finally:
        monkeypatch.undo()
        _yields._readable.cache_clear()
    assert _yields._readable()


def test_a_generator_that_cannot_be_looked_into_gets_errors_thrown_in() -> None:
    class Compiled:
        """As compiled code has them."""

    compiled: Any = Compiled()
    assert takes_errors(compiled)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (bare, "resumed after an error"),
        (before_a_with, "resumed after an error"),
        (in_async_with, "an error is thrown in"),
        (sync_in_try, "an error is thrown in"),
        (over_an_async_generator, "the yield it stands at decides"),
    ],
)
def test_what_explain_says(function: Any, words: str) -> None:
    assert describe_yields(function).startswith(words)


async def test_a_bare_yield_closes_and_a_transaction_rolls_back() -> None:
    c, trace = Container(), []

    @c.provider
    async def connection() -> AsyncIterator[str]:
        yield "connection"
        trace.append("closed")

    @contextlib.asynccontextmanager
    async def begin() -> AsyncGenerator[str]:
        try:
            yield "transaction"
        except BaseException as error:
            trace.append(f"rolled back for {error!r}")
            raise
        trace.append("committed")

    @c.provider(autouse=True)
    async def transaction(connection: str) -> AsyncIterator[None]:
        async with begin():
            yield

    @c.inject
    async def view(fails: bool) -> None:
        if fails:
            raise KeyError("mine")

    async with c:
        await view(False)
        assert trace == ["committed", "closed"]
        trace.clear()
        with pytest.raises(KeyError, match="mine"):
            await view(True)
    assert trace == ["rolled back for KeyError('mine')", "closed"]


async def test_a_delegating_provider_rolls_back() -> None:
    c, trace, closed = Container(), [], asyncio.Event()

    async def transaction() -> AsyncIterator[str]:
        try:
            yield "transaction"
        except GeneratorExit:
            trace.append("rolled back")
            closed.set()
            raise
        trace.append("committed")

    @c.provider(name="transaction")
    async def delegating() -> AsyncIterator[str]:
        source = transaction()
        async for each in source:
            yield each
        trace.append("committed as well")

    @c.inject
    async def view(transaction: str) -> None:
        raise KeyError

    async with c:
        with pytest.raises(KeyError):
            await view()
        async with asyncio.timeout(5):
            await closed.wait()  # the loop closes what was abandoned
    assert trace == ["rolled back"]
