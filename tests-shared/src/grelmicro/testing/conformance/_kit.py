"""Clauses: how one is written, found and run."""

import asyncio
import concurrent.futures
import importlib
import inspect
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from grelmicro.testing.conformance._subject import Capability, Subject

__all__ = ["BrokenPromiseError", "Clause", "clause", "clauses", "promise", "same"]

_MODULES = (
    "provider",
    "cache",
    "cache_options",
    "cache_life",
    "sync",
    "sync_life",
    "circuitbreaker",
)

_GRACE = 2.0
"""Seconds that a cancelled clause gets to end, before its thread is left behind."""

Function = Callable[[Any], Coroutine[Any, Any, None]]

_registry: dict[str, "Clause"] = {}


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
    """

    id: str
    function: Function
    needs: tuple[Capability, ...] = ()
    since: str = "1.0"
    seconds: float = 20.0
    closed: bool = False

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
        return subject.supports(self.kind) and all(
            subject.offers(self.kind, capability) for capability in self.needs
        )

    def check(self, subject: Subject) -> None:
        """Hold a subject to the promise, on a loop of its own; return if it is kept.

        Raises:
            BrokenPromiseError: It is not kept, or nothing came of it within the deadline.
            Exception: Whatever the backend raised.
        """
        try:
            _run(lambda: self._run(subject), self.seconds)
        except Exception as error:
            error.add_note(f"{subject.name} breaks {self.id}: {self.text}")
            raise

    async def _run(self, subject: Subject) -> None:
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
) -> Callable[[Function], Clause]:
    """Make a clause of a coroutine function; see `Clause` for the arguments."""

    def register(function: Function) -> Clause:
        made = Clause(name, function, needs, since, seconds, closed)
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


def _run(make: Callable[[], Coroutine[Any, Any, None]], seconds: float) -> None:
    """Run a coroutine in a thread of its own: a backend that cannot be stopped is left there."""
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
