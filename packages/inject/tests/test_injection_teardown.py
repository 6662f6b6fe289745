"""Teardown: all of it, in reverse, whoever fails or is cancelled, and no error gets lost."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from contextvars import ContextVar

import anyio
import pytest

from grelmicro.errors import OutOfContextError
from grelmicro.inject import Container

here: ContextVar[str] = ContextVar("here", default="outside")


@pytest.fixture
def c() -> Container:
    return Container()


async def test_the_views_error_reaches_the_caller_with_notes_of_the_teardowns(
    c: Container, caplog: pytest.LogCaptureFixture
) -> None:
    trace: list[str] = []

    @c.provider
    async def one() -> AsyncIterator[int]:
        yield 1
        trace.append("one")
        raise ConnectionError("one is gone")

    @c.provider
    def two(one: int) -> Iterator[int]:
        yield 2
        trace.append("two")
        raise OSError("two is gone")

    @c.inject
    async def view(two: int) -> None:
        raise KeyError("mine")

    async with c:
        with pytest.raises(KeyError, match="mine") as raised:
            await view()
    assert trace == ["two", "one"]
    first, second = raised.value.__notes__
    assert "'two'" in first
    assert "two is gone" in first
    assert "'one'" in second
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * 2


async def test_a_provider_that_swallows_or_replaces_the_error_does_not_change_it(
    c: Container,
) -> None:
    @c.provider
    async def swallowing() -> AsyncIterator[int]:
        with suppress(KeyError):
            yield 1

    @c.provider
    async def replacing(swallowing: int) -> AsyncIterator[int]:
        try:
            yield 2
        except KeyError as error:
            raise ValueError("another") from error

    @c.inject
    async def view(replacing: int) -> None:
        raise KeyError("mine")

    async with c:
        with pytest.raises(KeyError, match="mine") as raised:
            await view()
    assert "ValueError('another')" in raised.value.__notes__[0]
    frames = []
    traceback = raised.value.__traceback__
    while traceback is not None:
        frames.append(traceback.tb_frame.f_code.co_name)
        traceback = traceback.tb_next
    assert frames[-1] == "view"
    assert "swallowing" not in frames


async def test_a_teardowns_error_is_raised_when_the_view_succeeded_and_rolls_the_rest_back(
    c: Container,
) -> None:
    trace: list[str] = []

    @c.provider
    async def transaction() -> AsyncIterator[int]:
        try:
            yield 1
        except ConnectionError:
            trace.append("rolled back")
            raise
        trace.append("committed")

    @c.provider
    async def flushing(transaction: int) -> AsyncIterator[int]:
        yield 2
        raise ConnectionError("cannot flush")

    @c.inject
    async def view(flushing: int) -> str:
        return "done"

    async with c:
        with pytest.raises(ConnectionError, match="cannot flush"):
            await view()
    assert trace == ["rolled back"]


@pytest.mark.parametrize("error", [StopAsyncIteration, asyncio.CancelledError, KeyError])
async def test_errors_of_any_kind_are_thrown_in_and_come_back(
    c: Container, error: type[BaseException]
) -> None:
    seen: list[BaseException] = []

    @c.provider
    async def both() -> AsyncIterator[int]:
        try:
            yield 1
        except BaseException as caught:
            seen.append(caught)
            raise

    @c.provider
    def sync(both: int) -> Iterator[int]:
        try:
            yield 1
        except BaseException as caught:
            seen.append(caught)
            raise

    mine = error("mine")

    @c.inject
    async def view(sync: int) -> None:
        raise mine

    async with c:
        with pytest.raises(error) as raised:
            await view()
    assert raised.value is mine
    assert seen == [mine, mine]
    assert not hasattr(mine, "__notes__")


async def test_teardown_runs_to_its_end_although_it_is_cancelled_again_and_again(
    c: Container,
) -> None:
    trace: list[str] = []
    closing, go = asyncio.Event(), asyncio.Event()

    @c.provider
    async def one() -> AsyncIterator[int]:
        yield 1
        await asyncio.sleep(0)
        trace.append("one")

    @c.provider
    async def two(one: int) -> AsyncIterator[int]:
        yield 2
        closing.set()
        await go.wait()
        await asyncio.sleep(0)
        trace.append("two")

    @c.inject
    async def view(two: int) -> str:
        return "done"

    async with c:
        task = asyncio.create_task(view())
        await closing.wait()
        for _ in range(3):
            task.cancel("please")
            await asyncio.sleep(0)
            assert not task.done()
        go.set()
        with pytest.raises(asyncio.CancelledError, match="please"):
            await task
    assert trace == ["two", "one"]


async def test_a_cancelled_view_is_torn_down_and_a_timeout_is_a_timeout(c: Container) -> None:
    trace: list[str] = []

    @c.provider
    async def one() -> AsyncIterator[int]:
        try:
            yield 1
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            trace.append("rolled back")
            raise

    @c.inject
    async def view(one: int) -> None:
        await asyncio.Event().wait()

    async with c:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await view()
        assert trace == ["rolled back"]
        await asyncio.sleep(0)  # nothing of it is left in this task


async def test_a_timeout_that_fires_in_the_teardown_waits_for_it_and_is_a_timeout(
    c: Container,
) -> None:
    trace: list[str] = []

    @c.provider
    async def one() -> AsyncIterator[int]:
        yield 1
        await asyncio.sleep(0.05)
        trace.append("closed")

    @c.inject
    async def view(one: int) -> None: ...

    async with c:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await view()
    assert trace == ["closed"]


async def test_what_a_teardown_arms_itself_still_works(c: Container) -> None:
    trace: list[str] = []

    @c.provider
    async def impatient() -> AsyncIterator[int]:
        yield 1
        try:
            async with asyncio.timeout(0.01):
                await asyncio.Event().wait()
        except TimeoutError:
            trace.append("timed out")
        with suppress(ExceptionGroup):
            async with asyncio.TaskGroup() as group:

                async def fail() -> None:
                    raise OSError

                group.create_task(fail())
                await asyncio.Event().wait()
        trace.append("group ended")
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.Event().wait(), 0.01)
        trace.append("waited")

    @c.inject
    async def view(impatient: int) -> str:
        return "done"

    async with c, asyncio.timeout(5):
        assert await view() == "done"
    assert trace == ["timed out", "group ended", "waited"]


async def test_what_is_held_over_the_yield_ends_in_its_own_task_and_context(c: Container) -> None:
    tasks: list[object] = []

    @c.provider(autouse=True)
    async def context() -> AsyncIterator[None]:
        token = here.set("inside")
        tasks.append(asyncio.current_task())
        async with asyncio.timeout(5), asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(0.01))
            yield
        tasks.append(asyncio.current_task())
        here.reset(token)

    @c.inject
    async def view() -> str:
        return here.get()

    async with c:
        assert await view() == "inside"
    assert here.get() == "outside"
    assert tasks == [asyncio.current_task()] * 2


async def test_a_child_that_fails_in_a_group_over_the_yield_is_no_cancellation(
    c: Container,
) -> None:
    fail = asyncio.Event()

    @c.provider
    async def group() -> AsyncIterator[asyncio.TaskGroup]:
        async with asyncio.TaskGroup() as tasks:
            yield tasks
            fail.set()

    async def child() -> None:
        await fail.wait()
        raise OSError("child")

    @c.inject
    async def view(group: asyncio.TaskGroup) -> None:
        group.create_task(child())

    async with c:
        with pytest.raises(ExceptionGroup) as raised:
            await view()
    assert raised.group_contains(OSError, match="child")


async def test_after_its_time_a_cancelled_teardown_is_cut_short() -> None:
    c, trace = Container(grace=0.02), []
    closing = asyncio.Event()

    @c.provider
    async def one() -> AsyncIterator[int]:
        yield 1
        trace.append("one begins")
        try:
            await asyncio.Event().wait()
        finally:
            trace.append("one is cut")

    @c.provider
    async def two(one: int) -> AsyncIterator[int]:
        yield 2
        closing.set()
        try:
            await asyncio.Event().wait()
        finally:
            trace.append("two is cut")

    @c.inject
    async def view(two: int) -> None: ...

    async with c:
        task = asyncio.create_task(view())
        await closing.wait()
        task.cancel()
        async with asyncio.timeout(5):
            with pytest.raises(asyncio.CancelledError):
                await task
    assert trace == ["two is cut", "one begins", "one is cut"]


async def test_without_cancellation_a_teardown_has_all_the_time_it_needs() -> None:
    c = Container(grace=0)

    @c.provider
    async def slow() -> AsyncIterator[int]:
        yield 1
        await asyncio.sleep(0.03)

    @c.inject
    async def view(slow: int) -> str:
        return "done"

    async with c:
        assert await view() == "done"


async def test_a_cancelled_start_of_a_request_leaves_nothing_open(c: Container) -> None:
    trace: list[str] = []
    started = asyncio.Event()

    @c.provider
    async def one() -> AsyncIterator[int]:
        trace.append("open")
        yield 1
        await asyncio.sleep(0)
        trace.append("closed")

    @c.provider
    async def two(one: int) -> int:
        started.set()
        await asyncio.Event().wait()
        return 2

    @c.inject
    async def view(two: int) -> None: ...

    async with c:
        task = asyncio.create_task(view())
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert trace == ["open", "closed"]


async def test_what_is_built_when_its_scope_closes_is_closed_at_once(c: Container) -> None:
    started, go, closed = asyncio.Event(), asyncio.Event(), False

    @c.provider
    async def late() -> AsyncIterator[int]:
        nonlocal closed
        started.set()
        await go.wait()
        try:
            yield 1
        finally:
            closed = True

    async with c:
        async with c.scope() as scope:
            task = asyncio.create_task(scope.get("late"))
            await started.wait()
        go.set()
        with pytest.raises(OutOfContextError, match="'late'"):
            await task
    assert closed


async def test_app_teardown_survives_cancellation(c: Container) -> None:
    closing, go, closed = asyncio.Event(), asyncio.Event(), False

    @c.provider(scope="app")
    async def pool() -> AsyncIterator[int]:
        nonlocal closed
        yield 1
        closing.set()
        await go.wait()
        closed = True

    async def serve() -> None:
        async with c:
            pass

    task = asyncio.create_task(serve())
    await closing.wait()
    task.cancel()
    await asyncio.sleep(0)
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert closed


async def test_a_cancellation_in_the_loop_iteration_that_ends_the_wait_is_held_too(
    c: Container,
) -> None:
    closing, trace = asyncio.Event(), []
    wait: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @c.provider
    async def one() -> AsyncIterator[int]:
        yield 1
        closing.set()
        await wait
        trace.append("first")
        await asyncio.sleep(0)
        trace.append("second")

    @c.inject
    async def view(one: int) -> None: ...

    async with c:
        task = asyncio.create_task(view())
        await closing.wait()
        wait.set_result(None)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert trace == ["first", "second"]


async def test_a_cancel_scope_that_insists_waits_too(c: Container) -> None:
    trace: list[str] = []

    @c.provider
    async def transaction() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            for step in ("first", "second"):
                await asyncio.sleep(0.01)
                trace.append(step)

    @c.inject
    async def view(transaction: int) -> None:
        scope.cancel()  # its error comes again at every await
        await anyio.sleep(1)

    async with c:
        with anyio.CancelScope() as scope:
            await view()
        await asyncio.sleep(0)  # nothing of it is left in this task
    assert scope.cancelled_caught
    assert trace == ["first", "second"]


async def test_an_error_of_the_view_outlives_a_cancellation_of_its_teardown(c: Container) -> None:
    closing, go, trace = asyncio.Event(), asyncio.Event(), []

    @c.provider
    async def one() -> AsyncIterator[int]:
        yield 1
        closing.set()
        await go.wait()
        trace.append("closed")

    @c.inject
    async def view(one: int) -> None:
        raise KeyError("mine")

    async with c:
        task = asyncio.create_task(view())
        await closing.wait()
        task.cancel()
        go.set()
        with pytest.raises(KeyError, match="mine"):
            await task
    assert trace == ["closed"]


async def test_a_timeout_over_the_yield_that_fires_in_a_teardown_takes_its_cancellation_back(
    c: Container,
) -> None:
    fired = asyncio.Event()

    @c.provider
    async def limit() -> AsyncIterator[asyncio.Timeout]:
        async with asyncio.timeout(60) as timeout:
            yield timeout
        fired.set()

    @c.provider
    async def slow(limit: asyncio.Timeout) -> AsyncIterator[int]:
        task = asyncio.current_task()
        assert task is not None
        yield 1
        for _ in range(1000):
            await asyncio.sleep(0)
            if task.cancelling():
                return

    @c.inject
    async def view(limit: asyncio.Timeout, slow: int) -> str:
        limit.reschedule(asyncio.get_running_loop().time())
        return "done"

    async with c, asyncio.timeout(5):
        assert await view() == "done"
    assert fired.is_set()


async def test_the_time_of_a_teardown_begins_with_the_cancellation_that_led_to_it() -> None:
    begun, trace = asyncio.Event(), list[str]()
    c = Container(grace=0.05)

    @c.provider
    async def hangs() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                trace.append("cut short")
                raise

    @c.inject
    async def view(hangs: int) -> None:
        begun.set()
        await asyncio.Event().wait()

    async with c, asyncio.timeout(20):
        task = asyncio.create_task(view())
        await begun.wait()
        task.cancel()  # once: nobody cancels it again
        with pytest.raises(asyncio.CancelledError):
            await task
    assert trace == ["cut short"]
