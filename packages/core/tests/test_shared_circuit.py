"""What one process makes of what a fleet's backend says, in every order it may be said in."""

import asyncio
from typing import Any, NoReturn

import pytest

from grelmicro.errors import OutOfContextError, ResilienceError
from grelmicro.resilience import CircuitBreakerConfig, CircuitBreakerError, CircuitBreakerState
from grelmicro.resilience import _fleet as module
from grelmicro.resilience._fleet import Fleet
from grelmicro.resilience._reports import Answer, Record, Report
from grelmicro.resilience._shared_circuit import SharedCircuit
from grelmicro.resilience._tickets import Admission, Says

CLOSED = CircuitBreakerState.CLOSED
OPEN = CircuitBreakerState.OPEN
HALF_OPEN = CircuitBreakerState.HALF_OPEN
FORCED_OPEN = CircuitBreakerState.FORCED_OPEN


class Me:
    """Who calls."""


class NoFleet:
    """What carries no reports."""

    is_away = False

    def push(self, circuit: SharedCircuit, delay: float = 0.0) -> None: ...


def made(**settings: Any) -> SharedCircuit:
    return SharedCircuit("b", CircuitBreakerConfig(**settings), NoFleet())


def record(version: int, state: CircuitBreakerState, errors: int = 0, good: int = 0) -> Record:
    return Record(version, state, 30.0 if state is OPEN else 0.0, errors, good)


def call(circuit: SharedCircuit, error: Exception | None = None) -> None:
    admission = circuit.enter(Me())
    assert isinstance(admission, Admission)
    circuit.leave(admission, error)


def said(circuit: SharedCircuit, answer: Record) -> Report:
    report = circuit.take()
    circuit.answered(report, Answer(answer, ()))
    return report


async def probe(circuit: SharedCircuit, answer: Record) -> Admission:
    """A call that the backend lets through."""
    entering: Any = circuit.enter(Me())
    task = asyncio.create_task(entering)
    await asyncio.sleep(0)
    report = circuit.take()
    circuit.answered(report, Answer(answer, (True,) * len(report.asks)))
    admission: Admission = await task
    return admission


async def test_what_was_said_of_a_version_earlier_undoes_no_success() -> None:
    circuit = made(success_threshold=2)
    circuit.heard(record(5, HALF_OPEN))
    for good in (1, 2):
        admission = await probe(circuit, record(5, HALF_OPEN, good=good - 1))
        circuit.heard(record(5, HALF_OPEN))  # it was on its way for long
        circuit.leave(admission, None)
        if good == 1:
            said(circuit, record(5, HALF_OPEN, good=1))
    assert circuit.metrics().state is CLOSED


async def test_what_is_changed_here_is_not_undone_by_what_was_said_before() -> None:
    circuit = made()
    circuit.heard(record(5, CLOSED))
    circuit.change(FORCED_OPEN)
    assert not circuit.heard(record(6, OPEN))
    report = circuit.take()
    assert not circuit.heard(record(6, OPEN))
    circuit.answered(report, Answer(record(7, FORCED_OPEN), ()))
    assert circuit.heard(record(6, OPEN))  # it is older
    assert circuit.state is FORCED_OPEN
    circuit.heard(record(8, CLOSED))
    assert circuit.metrics().state is CLOSED


def test_a_closed_time_that_was_missed_is_another_time() -> None:
    circuit = made()
    call(circuit, ValueError())
    circuit.heard(record(5, CLOSED))  # the first that is heard: the same time
    admission: Any = circuit.enter(Me())
    assert circuit.take().errors == 1
    circuit.heard(record(9, CLOSED))
    circuit.leave(admission, ValueError())
    assert circuit.metrics().errors_in_a_row == 0
    assert not circuit.is_news


def test_errors_of_others_count_with_those_that_are_not_reported_yet() -> None:
    circuit = made(error_threshold=9)
    call(circuit, ValueError())
    report = circuit.take()
    call(circuit, ValueError())
    circuit.answered(report, Answer(record(5, CLOSED, errors=6), ()))
    assert circuit.metrics().errors_in_a_row == 7
    call(circuit)
    report = circuit.take()
    assert (report.reset, report.errors, report.base) == (True, 0, 5)
    call(circuit, ValueError())
    circuit.answered(report, Answer(record(5, CLOSED), ()))
    assert circuit.metrics().errors_in_a_row == 1


def test_a_report_that_failed_keeps_what_is_true_still() -> None:
    circuit = made(error_threshold=2, reset_timeout=0.05)
    call(circuit, ValueError())
    circuit.failed(circuit.take(), OSError())
    assert not circuit.is_news  # a count that may have been taken is not told twice
    call(circuit, ValueError())
    report = circuit.take()
    assert report.trip
    circuit.failed(report, OSError())
    assert circuit.is_urgent
    assert circuit.take().trip
    with pytest.raises(CircuitBreakerError):
        call(circuit)


async def test_a_trip_that_is_over_is_not_reported() -> None:
    circuit = made(error_threshold=1, reset_timeout=0.01)
    call(circuit, ValueError())
    await asyncio.sleep(0.02)
    assert not circuit.take().trip


async def test_who_waits_is_told_that_a_report_failed_also_before_it_was_sent() -> None:
    circuit = made()
    sent = circuit.change(HALF_OPEN)
    report = circuit.take()
    unsent = circuit.change(HALF_OPEN)
    entering: Any = circuit.enter(Me())
    asking = asyncio.create_task(entering)
    await asyncio.sleep(0)
    circuit.failed(report, OSError("gone"))
    for push in (sent, unsent):
        with pytest.raises(ResilienceError, match="gone") as failure:
            await push
        assert isinstance(failure.value.__cause__, OSError)
    admission = await asking
    circuit.leave(admission, None)  # decided here
    assert circuit.take().command is HALF_OPEN


async def test_who_leaves_while_asking_gives_back_what_is_granted() -> None:
    circuit = made()
    circuit.heard(record(5, HALF_OPEN))
    for is_sent in (False, True):
        entering: Any = circuit.enter(Me())
        asking = asyncio.create_task(entering)
        await asyncio.sleep(0)
        report = circuit.take() if is_sent else None
        asking.cancel()
        await asyncio.wait([asking])
        if report is None:
            assert not circuit.take().asks
        else:
            circuit.answered(report, Answer(record(5, HALF_OPEN), (True,)))
            assert circuit.take().ended == [(report.asks[0].token, Says.NOTHING)]


async def test_a_probe_of_a_time_that_is_over_says_nothing() -> None:
    circuit = made(success_threshold=1)
    circuit.heard(record(5, HALF_OPEN))
    admission = await probe(circuit, record(5, HALF_OPEN))
    circuit.heard(record(6, OPEN))
    circuit.heard(record(7, HALF_OPEN))
    circuit.leave(admission, None)
    assert circuit.state is HALF_OPEN
    assert [says for _, says in circuit.take().ended] == [Says.NOTHING]


class Slow:
    """A backend that answers when it is told to."""

    _loop: asyncio.AbstractEventLoop | None = None

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.reports: list[Report] = []

    async def exchange(self, name: str, config: CircuitBreakerConfig, report: Report) -> Answer:
        self.reports.append(report)
        await self.go.wait()
        return Answer(record(len(self.reports), CLOSED), (True,) * len(report.asks))

    async def look(self, names: Any) -> list[Record]:
        return [record(0, CLOSED) for _ in names]

    def listen(self, names: Any) -> bool:
        return True


async def test_what_happens_during_a_report_travels_together_in_the_next() -> None:
    backend = Slow()
    fleet = Fleet(backend, lease=5)
    circuit = fleet.circuit("b", CircuitBreakerConfig(error_threshold=9))
    for number in range(5):
        call(circuit, ValueError())
        await asyncio.sleep(0.01 if number == 0 else 0)
    backend.go.set()
    await asyncio.sleep(0.01)
    assert [report.errors for report in backend.reports] == [1, 4]
    await fleet.close()


async def test_closing_reports_what_does_not_wait_and_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_SETTLE", 0.05)
    backend = Slow()
    fleet = Fleet(backend, lease=5)
    rates = fleet.circuit("r", CircuitBreakerConfig(failure_rate=0.5))
    circuit = fleet.circuit("b", CircuitBreakerConfig(error_threshold=9))
    call(circuit, ValueError())
    call(rates, ValueError())
    await asyncio.sleep(0.01)
    before = asyncio.all_tasks()
    await fleet.close()  # though the backend never answers
    assert asyncio.all_tasks() == {asyncio.current_task()} < before
    assert not fleet._timers


async def test_a_backend_that_is_closed_is_looked_at_no_more() -> None:
    def closed(names: Any) -> NoReturn:
        raise OutOfContextError

    backend: Any = Slow()
    backend.listen = closed
    fleet = Fleet(backend, lease=5)
    fleet.circuit("b", CircuitBreakerConfig())
    await asyncio.sleep(0.01)
    assert fleet._keeper is not None
    assert fleet._keeper.done()
