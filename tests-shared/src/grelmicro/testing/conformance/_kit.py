"""Clauses: how one is written, found and run."""

import asyncio
import concurrent.futures
import importlib
import inspect
import threading
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from dataclasses import dataclass
from secrets import token_hex
from time import monotonic
from typing import Any

from grelmicro.testing.conformance._subject import Capability, Subject, turn

__all__ = [
    "BrokenPromiseError",
    "Clause",
    "clause",
    "clauses",
    "later",
    "now",
    "promise",
    "run_bounded",
    "same",
    "version_of",
]

_MODULES = (
    *("provider", "provider_faults"),
    *("cache", "cache_options", "cache_life", "cache_together"),
    *("sync", "sync_life", "sync_together"),
    *("ratelimiter", "ratelimiter_life"),
    *("circuitbreaker", "circuitbreaker_life", "circuitbreaker_together", "circuitbreaker_faults"),
)

_GRACE = 2.0
"""Seconds that a cancelled clause gets to end, before its thread is left behind."""

Function = Callable[[Any], Coroutine[Any, Any, None]]

_registry: dict[str, "Clause"] = {}


class _Clock:
    """The time of a subject: the real one, and what it was advanced by."""

    def __init__(self, advance: Callable[[float], None] | None = None) -> None:
        self.advance = advance
        self.ahead = 0.0


_clock: ContextVar[_Clock] = ContextVar("clock", default=_Clock())  # noqa: B039  # never changed


class BrokenPromiseError(AssertionError):
    """A backend does not do what every backend of its kind promises."""


@dataclass(frozen=True)
class Clause:
    """One promise, and the coroutine function that finds out whether it is kept.

    Attributes:
        id: `cache.set.expires`: the component kind, or `provider`, then the promise.
        function: Takes what is promised about; its docstring says what, why, and how to mend it.
        needs: What a backend has to offer for the promise to be made at all.
        since: The first version of the contract that has it.
        seconds: The deadline.
        closed: Whether the function takes the subject itself, to open it as it likes.
        slow: Whether it takes half a second or more; a fast run leaves it out.
    """

    id: str
    function: Function
    needs: tuple[Capability, ...] = ()
    since: str = "1.0"
    seconds: float = 20.0
    closed: bool = False
    slow: bool = False

    @property
    def kind(self) -> str:
        """`provider`, or the component kind whose backends promise this."""
        return self.id.partition(".")[0]

    @property
    def text(self) -> str:
        """What is promised, why it matters, and how to mend a failure."""
        return inspect.getdoc(self.function) or ""

    def offered_by(self, subject: Subject) -> bool:
        """Whether the subject makes this promise; no I/O."""
        is_due = version_of(self.since) <= version_of(subject.level)
        return (
            is_due
            and subject.supports(self.kind)
            and all(subject.offers(self.kind, capability) for capability in self.needs)
        )

    def check(self, subject: Subject) -> None:
        """Hold a subject to the promise, on a loop of its own; return if it is kept.

        Raises:
            BrokenPromiseError: It is not kept, or nothing came of it within the deadline.
            Exception: Whatever the backend raised.
        """
        try:
            run_bounded(lambda: self._run(subject), self.seconds)
        except Exception as error:
            error.add_note(f"{subject.name} breaks {self.id}: {self.text}")
            raise

    async def _run(self, subject: Subject) -> None:
        _clock.set(_Clock(subject.advance))
        turn.set(f"_{token_hex(4)}")
        if self.closed:
            await self.function(subject)
        else:
            async with subject.open(self.kind) as backend:
                await self.function(backend)


def clause(
    name: str,
    *,
    needs: tuple[Capability, ...] = (),
    since: str = "1.0",
    seconds: float = 20.0,
    closed: bool = False,
    slow: bool = False,
) -> Callable[[Function], Clause]:
    """Make a clause of a coroutine function; see `Clause` for the arguments."""

    def register(function: Function) -> Clause:
        made = Clause(name, function, needs, since, seconds, closed, slow)
        if name in _registry or not made.text:
            raise ValueError(f"{name}: a clause has a name of its own and a docstring")
        _registry[name] = made
        return made

    return register


def clauses(kind: str | None = None) -> tuple[Clause, ...]:
    """All clauses, or those of `provider` or a component kind, in the order they are written."""
    for module in _MODULES:
        importlib.import_module(f"{__package__}.{module}")
    return tuple(each for each in _registry.values() if kind in (None, each.kind))


def version_of(text: str) -> tuple[int, ...]:
    """A version of the contract, to be compared.

    Raises:
        ValueError: It is not made of numbers with dots between.
    """
    return tuple(map(int, text.split(".")))


async def later(seconds: float) -> None:
    """Let the time of the backend pass."""
    clock = _clock.get()
    if clock.advance is None:
        await asyncio.sleep(seconds)
    else:
        clock.advance(seconds)
        clock.ahead += seconds
        await asyncio.sleep(0)


def now() -> float:
    """The monotonic time in seconds, as the backend sees it."""
    return monotonic() + _clock.get().ahead


def promise(kept: object, otherwise: str) -> None:
    """Go on if it is kept.

    Raises:
        BrokenPromiseError: It is not; `otherwise` says what was found.
    """
    if not kept:
        raise BrokenPromiseError(otherwise)


def same(found: object, expected: object, what: str) -> None:
    """Go on if what was found is equal to what was expected, and of the same type.

    Raises:
        BrokenPromiseError: It is not.
    """
    equal = type(found) is type(expected) and found == expected
    promise(equal, f"{what}: expected {_shown(expected)}, found {_shown(found)}")


def _shown(value: object, most: int = 200) -> str:
    text = repr(value)
    return text if len(text) <= most else f"{text[:most]}... ({len(text)} characters)"


def run_bounded(make: Callable[[], Coroutine[Any, Any, None]], seconds: float) -> None:
    """Run a coroutine in a thread of its own: a backend that cannot be stopped is left there.

    Raises:
        BrokenPromiseError: Nothing came of it in time.
        Exception: Whatever it raised.
    """
    outcome: concurrent.futures.Future[None] = concurrent.futures.Future()

    def body() -> None:
        try:
            with asyncio.Runner() as runner:
                runner.run(_bounded(make(), seconds))
        except BaseException as error:
            outcome.set_exception(error)
        else:
            outcome.set_result(None)

    threading.Thread(target=body, daemon=True, name="conformance").start()
    done, _ = concurrent.futures.wait([outcome], seconds + _GRACE)
    promise(done, f"nothing came of it in {seconds:g} seconds, and cancelling did not end it")
    outcome.result()


async def _bounded(coroutine: Coroutine[Any, Any, None], seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds) as deadline:
            await coroutine
    except TimeoutError:
        promise(not deadline.expired(), f"nothing came of it in {seconds:g} seconds")
        raise
