"""Circuit breakers that are broken on purpose: each breaks what it is registered for, no other."""

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Self

import pytest

from grelmicro.providers import Provider
from grelmicro.resilience import Circuit, CircuitBreakerConfig, CircuitBreakerState
from grelmicro.resilience._tickets import Admission, Period, Probe
from grelmicro.resilience.memory import MemoryCircuitBreakerAdapter
from grelmicro.testing.conformance import Clause, Subject, clauses

CLAUSES = [
    each
    for each in clauses("circuitbreaker")
    if each.id.split(".")[1] not in ("fault", "processes", "model")
]
"""The others have a gallery of their own."""

Broken = type[Circuit] | type[MemoryCircuitBreakerAdapter]
Found = Callable[[Subject, Iterable[Clause]], set[str]]

GALLERY: dict[Broken, set[str]] = {}


def breaks(*found_by: str) -> Callable[[Any], Any]:
    """Register a broken circuit, or backend, for the clauses that find it."""

    def register(broken: Any) -> Any:
        GALLERY[broken] = {f"circuitbreaker.{each}" for each in found_by}
        return broken

    return register


def subject(broken: Broken) -> Subject:
    class Adapter(MemoryCircuitBreakerAdapter):
        def circuit(self, *, name: str, config: CircuitBreakerConfig) -> Circuit:
            make: Any = broken
            known: Circuit | None = self._circuits.get((name, config))
            return known or self._circuits.setdefault((name, config), make(name, config))

    class BreakerProvider(Provider):
        adapter: ClassVar[Any] = Adapter if issubclass(broken, Circuit) else broken

        def breaker(self, **_: Any) -> Any:
            return self.adapter()

    return Subject(broken.__name__, BreakerProvider)


@breaks(
    *("errors.open", "rates.open", "half_open.exact", "half_open.decides", "cancel.is_nothing"),
    *("ignored.is_nothing", "late.changes_nothing", "forced.stays", "threads.run"),
    *("listeners.hear", "circuit.same", "cancel.while_asking", "life.reopens"),
)
class CountsForEachBreaker(MemoryCircuitBreakerAdapter):
    def circuit(self, *, name: str, config: CircuitBreakerConfig) -> Circuit:
        return Circuit(name, config)


@breaks("errors.in_a_row")
class AddsUpAllErrors(Circuit):
    def _call_ended(self, error: Exception | None, slow: int) -> None:
        before = self._errors
        super()._call_ended(error, slow)
        if error is None:
            self._errors = before


@breaks("rates.open")
class NeedsNoCalls(Circuit):
    def __init__(self, name: str, config: CircuitBreakerConfig) -> None:
        super().__init__(name, config)
        if self._window is not None:
            self._window._fewest = 1


@breaks("half_open.exact", "threads.run")
class LetsAnybodyThrough(Circuit):
    def _has_room(self) -> bool:
        return True


@breaks("half_open.decides", "half_open.exact")
class ClosesAfterOne(Circuit):
    def _probe_ended(self, probe: Probe, error: Exception | None, slow: int) -> None:
        self._successes += error is None
        super()._probe_ended(probe, error, slow)


@breaks("half_open.comes")
class NeverComesBack(Circuit):
    def _is_over(self) -> bool:
        return False


@breaks("cancel.is_nothing")
class KeepsPermitsOfTheCancelled(Circuit):
    def leave(self, admission: Admission, error: BaseException | None) -> None:
        if not isinstance(error, asyncio.CancelledError):
            super().leave(admission, error)
        else:
            self.kept = [*getattr(self, "kept", ()), admission]


@breaks("ignored.is_nothing")
class TakesIgnoredForSuccesses(Circuit):
    def leave(self, admission: Admission, error: BaseException | None) -> None:
        super().leave(admission, None if isinstance(error, LookupError) else error)


@breaks("late.changes_nothing")
class CountsLateCalls(Circuit):
    def leave(self, admission: Admission, error: BaseException | None) -> None:
        ticket = admission.ticket
        if isinstance(ticket, Period) and self.state is CircuitBreakerState.HALF_OPEN:
            ticket = self._probe(self)
        super().leave(Admission(self, ticket, 0.0), error)


@breaks("forced.stays")
class ForcesForAWhile(Circuit):
    def _is_over(self) -> bool:
        return super()._is_over() or self._state is CircuitBreakerState.FORCED_OPEN


@breaks("listeners.hear")
class TellsOnlyOfTrips(Circuit):
    def _tell(self) -> None:
        self._news = [event for event in self._news if event.after is CircuitBreakerState.OPEN]
        super()._tell()


@breaks("cancel.while_asking")
class KeepsPermitsOfWhoAsks(Circuit):
    """Half-open, it asks somebody, and grants too late what was cancelled meanwhile."""

    def enter(self, owner: object) -> Any:
        if self.state is CircuitBreakerState.HALF_OPEN:
            return self.asked(owner)
        return super().enter(owner)

    async def asked(self, owner: object) -> Any:
        found = super().enter(owner)
        self.kept = [*getattr(self, "kept", ()), found]
        await asyncio.sleep(0)
        return self.kept.pop()


@breaks(
    *(
        each.id.partition(".")[2]
        for each in CLAUSES
        if each.id != "circuitbreaker.open.notes_its_loop"
    )
)
class NamesItOtherwise(MemoryCircuitBreakerAdapter):
    def otherwise(self, name: str, config: CircuitBreakerConfig, of: str = "", /) -> Circuit:
        return super().circuit(name=name, config=config)

    circuit: Any = otherwise


@breaks("circuit.same")
class MakesThemAnewOnEntering(MemoryCircuitBreakerAdapter):
    async def __aenter__(self) -> Self:
        self._circuits.clear()
        return await super().__aenter__()


@breaks("life.reopens")
class OpensOnce(MemoryCircuitBreakerAdapter):
    used = False

    async def __aenter__(self) -> Self:
        if self.used:
            raise RuntimeError("closed for good")
        self.used = True
        return await super().__aenter__()


@breaks("life.leaves_no_task")
class LeaksATask(MemoryCircuitBreakerAdapter):
    async def __aenter__(self) -> Self:
        self.task = asyncio.create_task(asyncio.Event().wait())
        return await super().__aenter__()


@breaks("open.notes_its_loop", "threads.run")
class NotesNoLoop(MemoryCircuitBreakerAdapter):
    async def __aenter__(self) -> Self:
        return self


def test_an_honest_backend_keeps_all(broken: Found) -> None:
    assert broken(subject(MemoryCircuitBreakerAdapter), CLAUSES) == set()


@pytest.mark.parametrize("made", GALLERY, ids=lambda made: made.__name__)
def test_a_broken_one_breaks_what_it_is_registered_for(made: Broken, broken: Found) -> None:
    assert broken(subject(made), CLAUSES) == GALLERY[made]


def test_every_clause_can_be_broken() -> None:
    assert set().union(*GALLERY.values()) == {each.id for each in CLAUSES}
