"""Stages: what is prepared, run, drained, cancelled and undone, and in which order."""

import asyncio
import importlib
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from grelmicro import Grelmicro
from grelmicro.providers.memory import MemoryProvider
from grelmicro.providers.redis import RedisProvider
from grelmicro.service import context, plugin

Events = list[str]


@pytest.fixture
def events() -> Events:
    return []


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Writes modules of a package that can be imported."""
    name = f"plugins_{os.urandom(4).hex()}"
    root = tmp_path / name
    root.mkdir()
    (root / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)

    def write(module: str, source: str) -> str:
        path = root.joinpath(*module.split(".")).with_suffix(".py")
        path.parent.mkdir(exist_ok=True)
        (path.parent / "__init__.py").touch()
        path.write_text(source)
        return f"{name}.{module}"

    yield write
    for each in [each for each in sys.modules if each.partition(".")[0] == name]:
        del sys.modules[each]


async def stop() -> None:
    context.get(plugin.Cancel).set()


async def forever() -> None:
    await asyncio.get_running_loop().create_future()


async def until_cancelled(events: Events, name: str = "heeded") -> str:
    await context.get(plugin.Cancel).wait()
    events.append(name)
    return name


# What prepare returns.


async def one() -> int:
    return 1


def test_a_coroutine_function_may_return_nothing() -> None:
    async def prepare() -> None:
        context.add("here")

    assert plugin.stage(prepare) == []


def test_it_may_return_an_awaitable_or_an_iterable_of_them() -> None:
    async def single() -> Awaitable[int]:
        return one()

    async def several() -> list[Awaitable[int]]:
        return [one(), one()]

    assert plugin.stage(single) == [1]
    assert plugin.stage(several, single) == [1, 1, 1]


def test_it_may_yield_awaitables() -> None:
    async def prepare() -> AsyncGenerator[Awaitable[int], None]:
        yield one()
        context.add("between")
        yield asyncio.ensure_future(one())

    assert plugin.stage(prepare) == [1, 1]


@pytest.mark.parametrize("result", [1, "text", [1], [one, one]])
def test_anything_else_is_refused(result: object) -> None:
    async def returns() -> object:
        return result

    async def yields() -> AsyncGenerator[object, None]:
        yield result

    for prepare in (returns, yields):
        with pytest.raises(ValueError, match=r"wants '.*' to be run"):
            plugin.stage(prepare)


@pytest.mark.parametrize("reference", [print, len, lambda: None, object()])
def test_what_is_no_plugin_is_refused(reference: Any) -> None:
    with pytest.raises(ValueError, match="has to be an `async def`"):
        plugin.stage(reference)


def test_what_was_yielded_before_a_refusal_is_not_left_behind() -> None:
    async def prepare() -> AsyncGenerator[object, None]:
        yield one()  # else: coroutine 'one' was never awaited
        yield 7

    with pytest.raises(ValueError, match="'int'"):
        plugin.stage(prepare)


def test_what_was_never_run_is_not_left_behind() -> None:
    async def first() -> Awaitable[int]:
        return one()  # else: coroutine 'one' was never awaited

    async def second() -> None:
        raise LookupError("nothing is here")

    with pytest.raises(LookupError, match="nothing is here"):
        plugin.stage(first, second)


# References.


def test_modules_attributes_and_relative_names(package: Any) -> None:
    package("deep.inner", "async def work(): return 'inner'\nasync def prepare(): return work()")
    name = package(
        "outer",
        """
from grelmicro.service import plugin

async def work():
    return 'outer'

async def prepare(load: plugin.Loader):
    await load('.deep.inner')
    return work()

async def other():
    return work()
""",
    )
    assert plugin.stage(name) == ["inner", "outer"]
    assert plugin.stage(f"{name}:other") == ["outer"]
    assert plugin.stage(f"{name}.other") == ["outer"]
    assert plugin.stage(importlib.import_module(name)) == ["inner", "outer"]


def test_what_cannot_be_found_is_named(package: Any) -> None:
    name = package("empty", "")
    with pytest.raises(ImportError, match="nowhere_at_all"):
        plugin.stage("nowhere_at_all")
    with pytest.raises(ValueError, match=r"empty' has no function `prepare`"):
        plugin.stage(name)
    with pytest.raises(ValueError, match=r"empty has no 'start'"):
        plugin.stage(f"{name}:start")


def test_a_plugin_that_fails_to_import_says_what_is_missing(package: Any) -> None:
    name = package("lacking", "import surely_not_installed")
    with pytest.raises(ImportError, match="surely_not_installed"):
        plugin.stage(name)


def test_a_relative_name_needs_a_package() -> None:
    namespace: dict[str, Any] = {"__name__": "alone", "stage": plugin.stage}
    with pytest.raises(ValueError, match="in no package"):
        exec("stage('.other')", namespace)


# Loading.


def test_each_plugin_is_prepared_once(events: Events) -> None:
    async def shared() -> Awaitable[int]:
        events.append("shared")
        return one()

    async def first(load: plugin.Loader) -> None:
        await load(shared)

    async def second(load: plugin.Loader) -> None:
        await asyncio.gather(load(shared), load(first), load(shared))

    assert plugin.stage(second, first, shared) == [1]
    assert events == ["shared"]


def test_circles_end_at_the_inner_caller(package: Any, events: Events) -> None:
    async def first(load: plugin.Loader) -> None:
        events.append("first begins")
        await load(second)
        events.append("first ends")

    async def second(load: plugin.Loader) -> None:
        await load(first)
        await load(second)
        events.append("second ends")

    plugin.stage(first)
    assert events == ["first begins", "second ends", "first ends"]


def test_circles_of_plugins_that_load_at_once_end_as_well(events: Events) -> None:
    async def left(load: plugin.Loader) -> None:
        await asyncio.sleep(0)
        await load(right)
        events.append("left")

    async def right(load: plugin.Loader) -> None:
        await asyncio.sleep(0)
        await load(left)
        events.append("right")

    async def both(load: plugin.Loader) -> None:
        await asyncio.gather(load(left), load(right))

    plugin.stage(both)
    assert sorted(events) == ["left", "right"]


def test_a_failed_plugin_fails_all_who_load_it() -> None:
    tries = []

    async def broken() -> None:
        tries.append(1)
        await asyncio.sleep(0)
        raise LookupError("broken")

    async def loads(load: plugin.Loader) -> None:
        found = await asyncio.gather(load(broken), load(broken), return_exceptions=True)
        assert [type(each) for each in found] == [LookupError, LookupError]

    plugin.stage(loads)
    assert len(tries) == 1


def test_parameters_of_prepare_are_injected() -> None:
    class Settings:
        pass

    class Thing:
        pass

    async def settings() -> None:
        context.add(Settings())

    async def prepare(
        load: plugin.Loader, cancel: plugin.Cancel, teardown: plugin.Teardown, mine: Settings
    ) -> None:
        assert load is context.get(plugin.Loader)
        assert cancel is context.get(plugin.Cancel)
        assert teardown is context.get(plugin.Teardown)
        assert mine is context.get(Settings)

    async def lacking(thing: Thing) -> None: ...

    assert plugin.stage(settings, prepare) == []
    with pytest.raises(LookupError, match=r"(?s)lacking.*thing.*Thing"):
        plugin.stage(lacking)


def test_a_plugin_loaded_by_a_running_task_has_its_tasks_run(events: Events) -> None:
    async def late() -> AsyncGenerator[Awaitable[Any], None]:
        yield until_cancelled(events, "late")
        yield one()

    async def loads() -> str:
        await context.get(plugin.Loader)(late)
        await asyncio.sleep(0.01)
        await stop()
        return "loaded"

    async def prepare() -> Awaitable[str]:
        return loads()

    assert plugin.stage(prepare) == ["loaded", "late", 1]
    assert events == ["late"]


# The life of a stage.


def test_everything_in_its_order(events: Events) -> None:
    async def prepare(teardown: plugin.Teardown, ready: plugin.Ready) -> AsyncIterator[Any]:
        teardown.add(lambda: events.append("undone last"))
        teardown.add(lambda: events.append("undone first"))
        assert not ready.is_set()

        async def work() -> None:
            await ready.wait()
            events.append("ready")
            await stop()
            assert not ready.is_set()
            events.append("not ready")

        yield work()
        yield until_cancelled(events)
        events.append("prepared")

    plugin.stage(prepare)
    assert events == ["prepared", "ready", "not ready", "heeded", "undone first", "undone last"]


def test_results_are_values_in_the_order_of_loading() -> None:
    async def raises() -> None:
        await asyncio.sleep(0.01)
        raise LookupError("mine")

    async def cancels_itself() -> None:
        raise asyncio.CancelledError

    async def prepare() -> list[Awaitable[Any]]:
        return [one(), forever(), raises(), cancels_itself(), one()]

    found = plugin.stage(prepare)
    assert [type(each) for each in found] == [
        int,
        asyncio.CancelledError,
        LookupError,
        asyncio.CancelledError,
        int,
    ]


def test_a_task_that_raises_stops_the_stage(
    events: Events, caplog: pytest.LogCaptureFixture
) -> None:
    async def raises() -> None:
        raise LookupError("mine")

    async def prepare(teardown: plugin.Teardown) -> list[Awaitable[Any]]:
        teardown.add(lambda: events.append("undone"))
        return [raises(), until_cancelled(events)]

    error, heeded = plugin.stage(prepare)
    assert isinstance(error, LookupError)
    assert (heeded, events) == ("heeded", ["heeded", "undone"])
    (record,) = [each for each in caplog.records if each.exc_info]
    assert record.levelno == logging.ERROR
    assert isinstance(record.exc_info, tuple)
    assert record.exc_info[1] is error


def test_one_shot_tasks_may_end_and_a_cancelled_one_is_no_failure(events: Events) -> None:
    async def cancels_itself() -> None:
        raise asyncio.CancelledError

    async def last() -> None:
        await asyncio.sleep(0.02)
        events.append("still here")

    async def prepare() -> list[Awaitable[Any]]:
        return [one(), cancels_itself(), last()]

    plugin.stage(prepare)
    assert events == ["still here"]


def test_only_what_heeds_is_waited_for(events: Events) -> None:
    async def finishes() -> str:
        await context.get(plugin.Cancel).wait()
        await asyncio.sleep(0.05)
        events.append("finished")
        return "finished"

    async def asks() -> str:
        cancel = context.get(plugin.Cancel)
        for _ in range(1000):
            if cancel.is_set():
                break
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.05)
        return "asked"

    async def in_a_task_of_its_own() -> str:
        return await asyncio.create_task(finishes())

    async def prepare() -> list[Awaitable[Any]]:
        return [forever(), finishes(), asks(), in_a_task_of_its_own(), stop()]

    started = time.monotonic()
    idle, *others = plugin.stage(prepare)
    assert isinstance(idle, asyncio.CancelledError)
    assert others == ["finished", "asked", "finished", None]
    assert time.monotonic() - started < 5


def test_draining_ends(events: Events) -> None:
    async def dawdles() -> None:
        await context.get(plugin.Cancel).wait()
        try:
            await forever()
        finally:
            events.append("cancelled")

    async def prepare() -> list[Awaitable[Any]]:
        return [dawdles(), stop()]

    started = time.monotonic()
    plugin.stage(prepare, grace=0.5)
    assert events == ["cancelled"]
    assert 0.3 < time.monotonic() - started < 3


def test_a_task_that_ignores_its_cancellation_is_left(caplog: pytest.LogCaptureFixture) -> None:
    async def stubborn() -> None:
        until = time.monotonic() + 60
        while time.monotonic() < until:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                continue

    async def prepare() -> list[Awaitable[Any]]:
        return [stubborn(), stop()]

    started = time.monotonic()
    ignored, _ = plugin.stage(prepare, grace=0.3)
    assert isinstance(ignored, asyncio.CancelledError)
    assert time.monotonic() - started < 5
    assert "ignores its cancellation" in caplog.text


def test_a_thread_that_does_not_end_is_not_waited_for() -> None:
    go = threading.Event()

    async def prepare() -> list[Awaitable[Any]]:
        return [asyncio.to_thread(go.wait, 60), stop()]

    started = time.monotonic()
    plugin.stage(prepare, grace=0.5)
    assert time.monotonic() - started < 5
    go.set()


# Undoing.


def test_teardown_goes_on_after_errors(events: Events) -> None:
    async def undo(name: str) -> None:
        await asyncio.sleep(0)
        events.append(name)

    async def fails() -> None:
        raise LookupError("undoing")

    async def prepare(teardown: plugin.Teardown) -> None:
        teardown.add(undo("a coroutine"))
        teardown.add(fails())
        teardown.add(lambda: undo("an async function"))
        teardown.add(fails)

    with pytest.raises(ExceptionGroup) as caught:
        plugin.stage(prepare)
    assert events == ["an async function", "a coroutine"]
    assert [str(each) for each in caught.value.exceptions] == ["undoing", "undoing"]


def test_what_cannot_be_undone_is_refused() -> None:
    async def prepare(teardown: plugin.Teardown) -> None:
        wrong: Any = 7
        teardown.add(wrong)

    with pytest.raises(TypeError, match=r"Teardown.add\(int\)"):
        plugin.stage(prepare)


def test_a_failed_prepare_undoes_the_others_and_is_raised_unchanged(events: Events) -> None:
    error = LookupError("third")

    async def first(teardown: plugin.Teardown) -> Awaitable[None]:
        teardown.add(lambda: events.append("first undone"))
        return forever()

    async def second(teardown: plugin.Teardown) -> None:
        @asynccontextmanager
        async def manager() -> AsyncGenerator[None]:
            try:
                yield
            except LookupError as seen:
                events.append(f"second saw {seen}")
                raise

        await teardown.enter(manager())

    async def third() -> None:
        raise error

    with pytest.raises(LookupError) as caught:
        plugin.stage(first, second, third)
    assert caught.value is error
    assert events == ["second saw third", "first undone"]


def test_teardown_that_hangs_ends_with_the_grace(events: Events) -> None:
    async def prepare(teardown: plugin.Teardown) -> Awaitable[None]:
        teardown.add(lambda: events.append("the other"))
        teardown.add(forever)
        return stop()

    started = time.monotonic()
    with pytest.raises(BaseExceptionGroup) as caught:
        plugin.stage(prepare, grace=0.5)
    assert time.monotonic() - started < 3
    assert isinstance(caught.value.exceptions[0], TimeoutError)
    assert events == ["the other"]


@pytest.mark.parametrize("opened_in", ["prepare", "a task", "a plugin that is gathered"])
def test_context_managers_are_closed_by_who_opened_them(opened_in: str, events: Events) -> None:
    @asynccontextmanager
    async def manager() -> AsyncGenerator[str]:
        task = asyncio.current_task()
        events.append("open")
        yield "value"
        assert asyncio.current_task() is task  # cancel scopes insist on it
        events.append("closed")

    async def enters(teardown: plugin.Teardown) -> None:
        assert await teardown.enter(manager()) == "value"

    async def in_a_task() -> None:
        assert await context.get(plugin.Teardown).enter(manager()) == "value"

    async def prepare(load: plugin.Loader) -> Awaitable[None]:
        if opened_in == "prepare":
            await load(enters)
        elif opened_in != "a task":
            await asyncio.gather(load(enters))
        return in_a_task() if opened_in == "a task" else one_shot()

    async def one_shot() -> None:
        events.append("run")

    plugin.stage(prepare)
    assert (events[0], events[-1]) == ("open", "closed")


def test_a_manager_that_is_being_entered_by_a_cancelled_task_is_closed(events: Events) -> None:
    @asynccontextmanager
    async def slow() -> AsyncGenerator[None]:
        events.append("opening")
        await asyncio.sleep(0.05)
        yield
        events.append("closed")

    async def enters() -> None:
        await context.get(plugin.Teardown).enter(slow())

    async def prepare() -> list[Awaitable[Any]]:
        return [enters(), stop()]

    plugin.stage(prepare)
    assert events == ["opening", "closed"]


def test_a_manager_that_cannot_be_entered_tells_its_caller() -> None:
    @asynccontextmanager
    async def broken() -> AsyncGenerator[None]:
        raise LookupError("shut")
        yield

    async def enters() -> None:
        with pytest.raises(LookupError, match="shut"):
            await context.get(plugin.Teardown).enter(broken())

    async def prepare(teardown: plugin.Teardown) -> Awaitable[None]:
        with pytest.raises(LookupError, match="shut"):
            await teardown.enter(broken())
        return enters()

    assert plugin.stage(prepare) == [None]


def test_an_app_lives_as_long_as_the_stage(redis_url: str) -> None:
    apps: list[Grelmicro] = []

    async def prepare(teardown: plugin.Teardown) -> AsyncIterator[Any]:
        for provider in (MemoryProvider(), RedisProvider(redis_url)):
            app = await teardown.enter(Grelmicro(uses=[provider]))
            apps.append(app)
            yield works(app)

    async def works(app: Grelmicro) -> bytes | None:
        assert app.is_open
        backend = app.get("cache").backend
        await backend.set(key="tea", value=b"4.75", ttl=60)
        found: bytes | None = await backend.get(key="tea")
        return found

    assert plugin.stage(prepare) == [b"4.75", b"4.75"]
    assert not any(app.is_open for app in apps)


# Starting takes too long.


def test_the_startup_deadline_names_what_hangs(events: Events) -> None:
    async def innocent() -> None: ...

    async def hangs() -> None:
        await forever()

    async def outer(load: plugin.Loader, teardown: plugin.Teardown) -> None:
        teardown.add(lambda: events.append("undone"))
        await load(innocent)
        await load(hangs)

    with pytest.raises(plugin.StartupTimeoutError) as caught:
        plugin.stage(outer, startup_timeout=0.1)
    assert "hangs" in str(caught.value)
    assert "outer'" not in str(caught.value)
    assert "innocent" not in str(caught.value)
    assert events == ["undone"]


def test_a_timeout_of_a_plugin_is_its_own() -> None:
    async def prepare() -> None:
        async with asyncio.timeout(0.01):
            await forever()

    with pytest.raises(TimeoutError) as caught:
        plugin.stage(prepare)
    assert not isinstance(caught.value, plugin.StartupTimeoutError)


@pytest.mark.parametrize("seconds", [0, -1, float("nan")])
def test_times_are_checked(seconds: float) -> None:
    async def prepare() -> None: ...

    with pytest.raises(ValueError, match="grace"):
        plugin.stage(prepare, grace=seconds)
    with pytest.raises(ValueError, match="startup_timeout"):
        plugin.stage(prepare, startup_timeout=seconds)


# Tasks that are started again.


def test_a_task_is_started_again(caplog: pytest.LogCaptureFixture) -> None:
    runs = []

    async def flaky(number: int) -> str:
        runs.append(number)
        if len(runs) < 3:
            raise LookupError("again")
        return "well"

    async def prepare() -> Awaitable[str]:
        return plugin.task(flaky, 7)

    assert plugin.stage(prepare) == ["well"]
    assert runs == [7, 7, 7]
    assert caplog.text.count("started again in") == 2


def test_a_task_is_started_again_so_often(events: Events) -> None:
    async def broken() -> None:
        events.append("run")
        raise LookupError("for ever")

    async def prepare() -> Awaitable[Any]:
        return plugin.task(broken, restart=1)

    (error,) = plugin.stage(prepare)
    assert isinstance(error, LookupError)
    assert events == ["run", "run"]


def test_nothing_is_started_again_at_the_end(events: Events) -> None:
    async def broken() -> None:
        events.append("run")
        await stop()
        raise LookupError("at the end")

    async def prepare() -> Awaitable[Any]:
        return plugin.task(broken)

    (error,) = plugin.stage(prepare)
    assert isinstance(error, LookupError)
    assert events == ["run"]


# Signals, of this process.


def test_term_stops_an_idle_service_quickly(events: Events) -> None:
    async def prepare(teardown: plugin.Teardown) -> AsyncIterator[Any]:
        teardown.add(lambda: events.append("undone"))
        yield forever()
        yield until_cancelled(events)
        yield sends(signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    started = time.monotonic()
    plugin.stage(prepare)
    assert time.monotonic() - started < 2
    assert events == ["heeded", "undone"]
    assert signal.getsignal(signal.SIGTERM) is before


async def sends(*numbers: signal.Signals) -> None:
    for number in numbers:
        os.kill(os.getpid(), number)
        await asyncio.sleep(0.05)


def test_a_second_signal_forces(events: Events) -> None:
    async def dawdles() -> None:
        await context.get(plugin.Cancel).wait()
        os.kill(os.getpid(), signal.SIGINT)
        try:
            await forever()
        finally:
            events.append("cancelled")

    async def prepare(teardown: plugin.Teardown) -> list[Awaitable[Any]]:
        teardown.add(lambda: events.append("undone"))
        teardown.add(forever)  # is not waited for, either
        return [dawdles(), sends(signal.SIGINT)]

    started = time.monotonic()
    with pytest.raises(BaseExceptionGroup):
        plugin.stage(prepare)
    assert time.monotonic() - started < 8
    assert events == ["cancelled", "undone"]


def test_a_signal_while_plugins_are_prepared(events: Events) -> None:
    async def first(teardown: plugin.Teardown) -> Awaitable[Any]:
        teardown.add(lambda: events.append("undone"))
        return forever()

    async def slow() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        await forever()

    async def never() -> None:
        events.append("never")

    started = time.monotonic()
    (result,) = plugin.stage(first, slow, never)
    assert isinstance(result, asyncio.CancelledError)
    assert time.monotonic() - started < 2
    assert events == ["undone"]


def test_other_signals_have_methods(events: Events) -> None:
    class Mine(plugin.Signals):
        def handle_usr1(self) -> None:
            events.append("usr1")

        async def handle_usr2(self) -> None:
            await asyncio.sleep(0)
            events.append("usr2")

        def handle_hup(self) -> None:
            events.append("hup")
            raise LookupError("logged, and no more")

        def handle_term(self) -> None:
            events.append("term")
            self.stop()

    async def prepare() -> list[Awaitable[Any]]:
        context.add(Mine())
        names = [signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP, signal.SIGTERM]
        return [sends(*names), forever()]

    plugin.stage(prepare)
    assert events == ["usr1", "usr2", "hup", "term"]
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL


def test_a_method_for_no_signal_is_refused() -> None:
    class Mine(plugin.Signals):
        def handle_nothing(self) -> None: ...

    async def prepare() -> None:
        context.add(Mine())

    with pytest.raises(ValueError, match=r"Mine\.handle_nothing"):
        plugin.stage(prepare)


def test_a_stage_runs_in_a_thread_too() -> None:
    found: list[Any] = []

    async def prepare() -> Awaitable[int]:
        return one()

    thread = threading.Thread(target=lambda: found.append(plugin.stage(prepare)))
    thread.start()
    thread.join(10)
    assert found == [[1]]


# Nothing is left.


def test_nothing_leaks_out_of_a_stage() -> None:
    class Foo:
        pass

    async def prepare() -> Awaitable[Foo]:
        context.add(Foo())
        return uses()

    async def uses() -> Foo:
        return context.get(Foo)

    context.add("outside")

    async def sees() -> None:
        assert context.get(str) == "outside"

    first = plugin.stage(prepare, sees)
    assert isinstance(first[0], Foo)
    assert context.get(Foo, default=None) is None
    assert context.get(plugin.Cancel, default=None) is None


def test_a_server_that_does_not_start_is_named_as_well(events: Events) -> None:
    async def prepare(ready: plugin.Ready, teardown: plugin.Teardown) -> Awaitable[None]:
        teardown.add(lambda: events.append("undone"))
        ready.expect("the web server")
        return forever()

    with pytest.raises(plugin.StartupTimeoutError, match=r"^the web server did not start within"):
        plugin.stage(prepare, startup_timeout=0.1)
    assert events == ["undone"]


def test_a_server_that_starts_in_time_is_waited_for() -> None:
    async def prepare(ready: plugin.Ready) -> Awaitable[str]:
        arrived = ready.expect("the web server")

        async def serve() -> str:
            await asyncio.sleep(0.02)
            assert not ready.is_set()
            arrived()
            await asyncio.sleep(0.3)  # longer than it may take to start
            return "served"

        return serve()

    assert plugin.stage(prepare, startup_timeout=0.2) == ["served"]
