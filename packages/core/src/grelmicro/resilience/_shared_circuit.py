"""A circuit whose state is a fleet's."""

import asyncio
from collections.abc import Awaitable, Coroutine
from concurrent.futures import Future
from secrets import token_hex
from time import monotonic
from typing import Any, Protocol

from grelmicro.errors import ResilienceError
from grelmicro.resilience._breaker_config import CircuitBreakerConfig
from grelmicro.resilience._breaker_state import CircuitBreakerState
from grelmicro.resilience._circuit import CLOSED, HALF_OPEN, OPEN, Circuit
from grelmicro.resilience._reports import Answer, Ask, Push, Record, Report
from grelmicro.resilience._tickets import RIDES, Admission, Probe, Says, Ticket

__all__ = ["SharedCircuit"]

_LATER = 0.25
"""Seconds for which calls in a window are gathered."""


class _Fleet(Protocol):
    is_away: bool

    def push(self, circuit: "SharedCircuit", delay: float = 0.0) -> None:
        """Report for a circuit soon, from any thread."""


class SharedCircuit(Circuit):
    """What one process knows of a fleet's circuit, and has to tell the fleet.

    What happens here takes effect here at once, and is reported. What the backend answers, or
    another replica brought about, is taken over, unless something was changed here meanwhile.

    Args:
        name: The breakers' name.
        config: Their settings.
        fleet: What carries reports to the backend.
    """

    def __init__(self, name: str, config: CircuitBreakerConfig, fleet: _Fleet) -> None:
        self._fleet = fleet
        self._pending = Report()
        self._sent: Report | None = None
        self._version = 0
        self._asking = 0
        self._adopts = True  # what it begins with is nobody's change
        super().__init__(name, config)
        self._adopts = False

    # What happens here.

    def change(self, state: CircuitBreakerState) -> Awaitable[None]:
        """Be in a state from now on; what is returned waits until the backend knows."""
        push = Push()
        with self._lock:
            self._begin(state)
            self._pending.trip, self._pending.command = False, state
            self._pending.waiting.append(push)
        self._tell()
        self._fleet.push(self)
        return push

    def _begin(self, state: CircuitBreakerState, seconds: float | None = None) -> None:
        super()._begin(state, seconds)
        self._pending.forget_counts()
        if not self._adopts:
            self._pending.fresh, self._pending.trip = True, state is OPEN
            self._pending.command = None
            self._fleet.push(self)

    def _call_ended(self, error: Exception | None, slow: int) -> None:
        period, errors, pending = self._period, self._errors, self._pending
        super()._call_ended(error, slow)
        if self._period is not period:
            return
        if self._window is not None:
            pending.calls += 1
            pending.failures += error is not None
            pending.slow += slow
            if pending.calls == 1:
                self._fleet.push(self, _LATER)
        elif error is not None:
            pending.errors += 1
            self._fleet.push(self)
        elif errors:
            pending.reset, pending.errors = True, 0
            self._fleet.push(self)

    def _give_back(self, probe: Probe, says: Says = Says.NOTHING) -> None:
        super()._give_back(probe, says)
        self._end(probe.token, says)

    def _end(self, token: str, says: Says) -> None:
        if token:
            self._pending.ended.append((token, says))
            self._fleet.push(self)

    # Asking for permits.

    def enter(self, owner: object) -> Admission | Coroutine[Any, Any, Admission]:
        """Let a call through; half-open, ask the backend whether to."""
        with self._lock:
            if self._has_to_ask(owner):
                return self._asked(owner)
        return super().enter(owner)

    def _has_to_ask(self, owner: object) -> bool:
        if self._fleet.is_away or not (self._state is HALF_OPEN or self._is_over()):
            return False
        return self._has_room() and not self._rides(owner)

    def _has_room(self) -> bool:
        return len(self._probes) + self._asking < self.config.half_open_capacity

    def _ticket(self, owner: object) -> Ticket | None:
        """What can be decided here."""
        if self._is_over() and not self._fleet.is_away:
            return RIDES if self._rides(owner) else None
        return super()._ticket(owner)

    async def _asked(self, owner: object) -> Admission:
        ask = Ask(token_hex(8), Future())
        ask.granted.set_running_or_notify_cancel()
        with self._lock:
            self._asking += 1
            self._pending.asks.append(ask)
        self._fleet.push(self)
        try:
            granted = await asyncio.wrap_future(ask.granted)
        except BaseException:
            with self._lock:
                self._withdraw(ask)
            raise
        finally:
            with self._lock:
                self._asking -= 1
        with self._lock:
            ticket = self._answered_ticket(owner, ask.token, granted)
            self._rejected += ticket is None
        self._tell()
        return self._admission(ticket)

    def _withdraw(self, ask: Ask) -> None:
        """Give back what may be granted, or will be."""
        if ask in self._pending.asks:
            self._pending.asks.remove(ask)
        else:
            self._end(ask.token, Says.NOTHING)

    def _answered_ticket(self, owner: object, token: str, granted: bool | None) -> Ticket | None:
        if granted:
            return self._probe(owner, token)
        if granted is None or self._state is not HALF_OPEN:
            return self._ticket(owner)
        return None

    # Reporting.

    @property
    def is_urgent(self) -> bool:
        """Whether there is something to report that does not wait."""
        return self._pending.is_urgent

    @property
    def is_news(self) -> bool:
        """Whether there is anything to report."""
        return self._pending.is_news

    def renew(self) -> bool:
        """Report the permits that are held, if there are any; whether there are."""
        with self._lock:
            self._pending.renews = any(probe.token for probe in self._probes)
        return self._pending.renews

    def take(self) -> Report:
        """What there is to report now; `answered` or `failed` has to follow."""
        with self._lock:
            report, self._pending = self._pending, Report()
            report.base, report.state = self._version, self._state
            report.remaining = max(0.0, self._open_until - monotonic())
            report.trip = report.trip and self._state is OPEN and report.remaining > 0
            report.held = tuple(probe.token for probe in self._probes if probe.token)
            self._sent = report
        return report

    def answered(self, report: Report, answer: Answer) -> None:
        """Take over what the backend says to a report."""
        with self._lock:
            self._sent = None
            record = answer.record
            if self._pending.fresh:
                self._version = max(self._version, record.version)
            elif report.fresh and record.state is self._state:
                self._version = record.version or self._version
                self._open_until = monotonic() + record.remaining
                self._count(record)
            else:
                self._adopt(record)
        self._tell()
        for ask, granted in zip(report.asks, answer.granted, strict=True):
            ask.granted.set_result(granted)
        for push in report.waiting:
            push.future.set_result(None)

    def failed(self, report: Report, error: BaseException) -> None:
        """Keep what still has to be reported, which counts have not, and decide here.

        Who waits for an answer is told, also those whose questions were not sent yet.
        """
        with self._lock:
            self._sent, pending = None, self._pending
            if not pending.fresh:
                pending.fresh, pending.trip = report.fresh, report.trip
                pending.command = report.command
            pending.ended[:0] = report.ended
            asks, pending.asks = report.asks + pending.asks, []
            waiting, pending.waiting = report.waiting + pending.waiting, []
        for ask in asks:
            ask.granted.set_result(None)
        for push in waiting:
            fault = ResilienceError(
                f"a change of the circuit breaker {self.name!r} is not known to other replicas "
                f"yet: {type(error).__name__}: {error}"
            )
            fault.__cause__ = error
            push.future.set_exception(fault)

    def heard(self, record: Record) -> bool:
        """Take over what another replica brought about; False when there is more to find out."""
        with self._lock:
            if self._pending.fresh or (self._sent is not None and self._sent.fresh):
                return False
            self._adopt(record, is_answer=False)
        self._tell()
        return True

    def _adopt(self, record: Record, *, is_answer: bool = True) -> None:
        """Be in the state of a record, unless it is older, or of a backend that knows nothing."""
        if record.version < max(self._version, 1):
            return
        is_first, is_new = not self._version, record.version > self._version
        self._version = record.version
        if record.state is not self._state or (is_new and not is_first):
            self._take_over(record)
        if is_answer or is_new:  # what was said of a version may be older than the latest answer
            self._count(record)

    def _take_over(self, record: Record) -> None:
        ended = self._pending.ended  # in a period that is over
        self._pending.ended = [(token, Says.NOTHING) for token, _ in ended]
        self._adopts = True
        try:
            self._begin(record.state, min(record.remaining, self.config.reset_timeout))
        finally:
            self._adopts = False

    def _count(self, record: Record) -> None:
        """Take over the fleet's counts, with what is not reported yet."""
        pending = self._pending
        if self._state is CLOSED and self._window is None:
            self._errors = pending.errors + (0 if pending.reset else record.errors)
            self._look_for_quiet()
        elif self._state is HALF_OPEN:
            said = [says for _, says in pending.ended]
            self._successes = record.successes + said.count(Says.GOOD)
