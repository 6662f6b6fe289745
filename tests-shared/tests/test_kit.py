"""How a clause is run: its deadline, its errors, its loop."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from grelmicro.providers import Provider
from grelmicro.providers.memory import MemoryProvider
from grelmicro.testing.conformance import (
    BrokenPromiseError,
    Capability,
    Clause,
    Subject,
    clause,
    clauses,
)

MEMORY = Subject("memory", MemoryProvider)
BEYOND = {Capability.FAULTS, Capability.PROCESSES}


def made(function: Any, **options: Any) -> Clause:
    """A clause of the memory cache that is not in the registry."""
    return Clause("cache.test", function, **options)


@pytest.fixture
def free() -> Iterator[threading.Event]:
    """Set when the test is over, for what would hang for ever."""
    event = threading.Event()
    yield event
    event.set()


def test_a_kept_promise_returns() -> None:
    async def keep(cache: Any) -> None:
        assert await cache.get(key="k") is None

    made(keep).check(MEMORY)


def test_a_failure_comes_as_it_is_with_the_promise_as_a_note() -> None:
    async def fail(cache: Any) -> None:
        """It is kept. Mend it so."""
        raise ConnectionResetError("gone")

    with pytest.raises(ConnectionResetError, match="gone") as caught:
        made(fail).check(MEMORY)
    assert caught.value.__notes__ == ["memory breaks cache.test: It is kept. Mend it so."]


def test_waiting_for_ever_is_a_broken_promise() -> None:
    async def wait(cache: Any) -> None:
        await asyncio.Event().wait()

    with pytest.raises(BrokenPromiseError, match=r"(?m)in 0\.05 seconds$"):
        made(wait, seconds=0.05).check(MEMORY)


def test_its_own_timeout_is_told_from_the_deadline() -> None:
    async def time_out(cache: Any) -> None:
        raise TimeoutError("its own")

    with pytest.raises(TimeoutError, match="its own"):
        made(time_out).check(MEMORY)


@pytest.mark.parametrize("way", ["blocks the loop", "does not hear of it"])
def test_what_cannot_be_cancelled_is_left_behind(
    way: str, free: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("grelmicro.testing.conformance._kit._GRACE", 0.1)
    ended = threading.Event()

    async def hang(cache: Any) -> None:
        while not free.is_set():
            if way == "blocks the loop":
                free.wait()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0.01)
        ended.set()

    with pytest.raises(BrokenPromiseError, match="cancelling did not end it"):
        made(hang, seconds=0.05).check(MEMORY)
    free.set()
    assert ended.wait(20)


def test_a_backend_that_does_not_open_is_the_error() -> None:
    class Refuses(MemoryProvider):
        async def __aenter__(self) -> Any:
            raise ConnectionRefusedError("nobody there")

    async def never(cache: Any) -> None:
        raise AssertionError

    with pytest.raises(ConnectionRefusedError, match="nobody there"):
        made(never).check(Subject("refuses", Refuses))


def test_every_clause_has_a_loop_of_its_own() -> None:
    loops: list[asyncio.AbstractEventLoop] = []

    async def note(cache: Any) -> None:
        loops.append(asyncio.get_running_loop())

    for _ in range(2):
        made(note).check(MEMORY)
    assert loops[0] is not loops[1]
    assert all(loop.is_closed() for loop in loops)


def test_a_subject_opens_and_closes_around_a_clause() -> None:
    steps: list[str] = []

    class Steps(Provider):
        async def __aenter__(self) -> Any:
            steps.append("open provider")

        async def __aexit__(self, exc_type: object, exc: object, traceback: object) -> None:
            steps.append("close provider")

        @asynccontextmanager
        async def cache(self, **options: Any) -> AsyncGenerator[None]:
            steps.append("open adapter")
            yield
            steps.append("close adapter")

    async def use(cache: Any) -> None:
        steps.append("use")

    made(use).check(Subject("steps", Steps))
    opened = ["open provider", "open adapter"]
    assert steps == [*opened, "use", "close adapter", "close provider"]


def test_what_a_subject_does_not_have_is_not_offered() -> None:
    class Bare(Provider):
        short_name = "bare"

    offered = {each.id for each in clauses() if each.offered_by(Subject("bare", Bare))}
    assert offered == {
        "provider.short_name",
        "provider.supports.works",
        "provider.factory.refuses",
        "provider.life.returns_itself",
        "provider.life.reopens",
    }


def test_without_options_two_adapters_are_not_assumed_to_be_apart() -> None:
    spaces = {each.id for each in clauses("cache") if not each.offered_by(MEMORY)}
    elsewhere = {each.id for each in clauses("cache") if {*each.needs} & BEYOND}
    assert spaces == {"cache.clear.spares_others", "cache.space.separate"} | elsewhere


def test_a_clause_has_a_name_of_its_own_and_a_docstring() -> None:
    async def silent(cache: Any) -> None: ...

    async def again(cache: Any) -> None:
        """It is kept."""

    clauses()
    with pytest.raises(ValueError, match="docstring"):
        clause("cache.silent")(silent)
    with pytest.raises(ValueError, match="name of its own"):
        clause("cache.get.missing")(again)
    assert not [each for each in clauses() if each.id == "cache.silent"]
