"""Breakers that fail in bad networks, between processes or after some histories: all are found.

The broken ones share their state over a real Redis, each with one defect.
"""

import asyncio
import functools
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Self, TypeVar
from urllib.parse import urlsplit
from uuid import uuid4

import pytest

from grelmicro.providers import Provider
from grelmicro.providers.memory import MemoryProvider
from grelmicro.providers.redis import RedisProvider
from grelmicro.resilience import Circuit, CircuitBreakerConfig, CircuitBreakerState
from grelmicro.resilience.fleet import Answer, Record, Report
from grelmicro.resilience.memory import MemoryCircuitBreakerAdapter
from grelmicro.resilience.redis import RedisCircuitBreakerAdapter
from grelmicro.testing.conformance import BrokenPromiseError, Clause, Subject, clauses
from grelmicro.testing.conformance._own import on_redis

Found = Callable[[Subject, Iterable[Clause], set[str]], set[str]]
Adapter = type[RedisCircuitBreakerAdapter]
A = TypeVar("A", bound=Adapter)

CLAUSES = [
    each for each in clauses("circuitbreaker") if each.id.split(".")[1] in ("fault", "processes")
]
"""The others have a gallery of their own, where pauses take no time."""

UNKNOWN = Record(0, CircuitBreakerState.CLOSED, 0.0, 0, 0)


def breaker_provider(adapter: Adapter, url: str) -> RedisProvider:
    class Made(RedisProvider):
        def breaker(self, **options: Any) -> RedisCircuitBreakerAdapter:
            return adapter(provider=self, **options)

    return Made(url, timeout=0.2)


def over(adapter: Adapter, url: str) -> Subject:
    """The subject of a broken adapter. Other processes have an honest one."""
    make = functools.partial(breaker_provider, adapter)
    prefix = f"{uuid4().hex}:"
    return Subject(
        adapter.__name__,
        lambda: make(url),
        options=lambda kind, part: {"prefix": f"{prefix}{part}:"},
        endpoint=url,
        at=make,
        again=functools.partial(on_redis, url, prefix),
    )


GALLERY: dict[Adapter, set[str]] = {}


def breaks(*found_by: str) -> Callable[[A], A]:
    """Register a broken adapter for the clauses that find it."""

    def register(adapter: A) -> A:
        GALLERY[adapter] = {f"circuitbreaker.{each}" for each in found_by}
        return adapter

    return register


class AsksFirst(Circuit):
    """A circuit that has the server asked before each call."""

    ask: Callable[[], Coroutine[Any, Any, float]]

    def enter(self, owner: object) -> Any:
        return self.asked(owner)

    async def asked(self, owner: object) -> Any:
        await self.ask()
        return super().enter(owner)

    def _begin(self, state: CircuitBreakerState, seconds: float | None = None) -> None:
        super()._begin(state, seconds)
        self.passing = self.quiet = None


@breaks("fault.cut", "fault.refuse", "fault.stall", "fault.merges", "fault.hears", "processes.trip",
        "processes.errors", "processes.permits")  # fmt: skip
class AsksItsServerForEveryCall(RedisCircuitBreakerAdapter):
    circuits: ClassVar[dict[Any, Any]] = {}

    def circuit(self, *, name: str, config: CircuitBreakerConfig) -> Circuit:
        key = self, name, config
        made: AsksFirst = self.circuits.setdefault(key, AsksFirst(name, config))
        made.ask = self.ask
        return made

    async def ask(self) -> float:
        return await self.provider.ping()


@breaks(
    *("fault.half_close", "fault.merges", "fault.hears"),
    *("processes.trip", "processes.errors", "processes.permits"),
)
class FailsAtTheEndOfItsConnection(AsksItsServerForEveryCall):
    async def __aenter__(self) -> Self:
        where = urlsplit(self.provider.url)
        self.streams = await asyncio.open_connection(where.hostname, where.port)
        return await super().__aenter__()

    async def closing(self) -> None:
        self.streams[1].transport.abort()
        await super().closing()

    async def ask(self) -> float:
        await asyncio.sleep(0.01)
        if self.streams[0].at_eof():
            raise ConnectionError("the server has said its last word")
        return 0.0


@breaks("fault.merges")
class ForgetsWhatItCouldNotReport(RedisCircuitBreakerAdapter):
    async def exchange(self, name: str, config: CircuitBreakerConfig, report: Report) -> Answer:
        try:
            return await super().exchange(name, config, report)
        except Exception:
            return Answer(UNKNOWN, (True,) * len(report.asks))


@breaks("processes.trip", "processes.errors", "processes.permits", "fault.merges", "fault.hears")
class HearsOfNothing(RedisCircuitBreakerAdapter):
    async def look(self, names: Sequence[str]) -> Iterable[Record]:
        return [UNKNOWN for _ in names]

    def listen(self, names: Sequence[str]) -> bool:
        return False


@breaks("processes.permits")
class GrantsEverything(RedisCircuitBreakerAdapter):
    async def exchange(self, name: str, config: CircuitBreakerConfig, report: Report) -> Answer:
        answer = await super().exchange(name, config, report)
        return Answer(answer.record, (True,) * len(report.asks))


@breaks("processes.errors")
class CountsItsOwnErrors(RedisCircuitBreakerAdapter):
    async def exchange(self, name: str, config: CircuitBreakerConfig, report: Report) -> Answer:
        own = replace(report, errors=0)
        return await super().exchange(name, config, own)


@breaks("fault.delay")
class GrantsLateOnesTwice(RedisCircuitBreakerAdapter):
    """Whose question takes long is asked again, under another name."""

    def circuit(self, *, name: str, config: CircuitBreakerConfig) -> Circuit:
        made = super().circuit(name=name, config=config)
        hasty: Any = made
        hasty._has_room = lambda: len(hasty._probes) < config.half_open_capacity
        return made

    async def exchange(self, name: str, config: CircuitBreakerConfig, report: Report) -> Answer:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        answer = await super().exchange(name, config, report)
        is_late = loop.time() - begun > 0.015
        return Answer(answer.record, tuple(g or is_late for g in answer.granted))


class RemembersSuccesses(Circuit):
    """Those of an earlier half-open time count the second time."""

    def _begin(self, state: CircuitBreakerState, seconds: float | None = None) -> None:
        successes = getattr(self, "_successes", 0)
        super()._begin(state, seconds)
        if state is CircuitBreakerState.HALF_OPEN:
            self._successes = successes


class Forgetful(MemoryCircuitBreakerAdapter):
    def circuit(self, *, name: str, config: CircuitBreakerConfig) -> Circuit:
        key = name, config
        return self._circuits.setdefault(key, RemembersSuccesses(name, config))


class ForgetfulProvider(Provider):
    short_name = "forgetful"

    def breaker(self, **_: Any) -> Any:
        return Forgetful()


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """What has to end in seconds has to end soon here."""
    monkeypatch.setattr("grelmicro.testing.conformance._faults.STALLED", 1.0)
    monkeypatch.setattr("grelmicro.testing.conformance.circuitbreaker_together.TOLD", 3.0)


def test_an_honest_one_keeps_all(redis_url: str, broken_outside: Found) -> None:
    honest = over(RedisCircuitBreakerAdapter, redis_url)
    assert broken_outside(honest, CLAUSES, set()) == set()


@pytest.mark.parametrize("made", GALLERY, ids=lambda made: made.__name__)
def test_a_broken_one_breaks_what_it_is_registered_for(
    made: Adapter, redis_url: str, broken_outside: Found
) -> None:
    assert broken_outside(over(made, redis_url), CLAUSES, GALLERY[made]) == GALLERY[made]


def test_what_lives_in_one_process_is_found_out(broken_outside: Found) -> None:
    again = functools.partial(Subject, "memory", MemoryProvider)
    alone = Subject("memory", MemoryProvider, again=again)
    candidates = [each for each in CLAUSES if ".processes." in each.id]
    expected = {each.id for each in candidates}
    assert broken_outside(alone, candidates, expected) == expected


def test_what_shows_only_after_a_history_is_found() -> None:
    (model,) = (each for each in clauses("circuitbreaker") if ".model." in each.id)
    with pytest.raises(BrokenPromiseError) as failure:
        model.check(Subject("forgetful", ForgetfulProvider))
    assert "after [('" in failure.value.__notes__[0]


def test_every_one_of_these_clauses_can_be_broken() -> None:
    assert set().union(*GALLERY.values()) == {each.id for each in CLAUSES}
