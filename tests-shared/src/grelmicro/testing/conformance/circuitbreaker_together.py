"""What every circuit breaker backend promises: after any history, and to other processes."""

import asyncio
from collections.abc import Awaitable
from contextlib import suppress
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

from grelmicro.resilience import CircuitBreaker, CircuitBreakerBackend, CircuitBreakerError
from grelmicro.resilience import CircuitBreakerState as State
from grelmicro.testing.conformance._kit import clause, promise, same
from grelmicro.testing.conformance._models import Machine, agree
from grelmicro.testing.conformance._processes import in_processes
from grelmicro.testing.conformance._subject import Capability, Subject
from grelmicro.testing.conformance.circuitbreaker import (
    FaultError,
    begun,
    breaker,
    crowd,
    end,
    fails,
    passes,
)

__all__ = ["become"]

TOLD = 10.0
"""Seconds after which every replica has heard of a change: contracts say 5 where one was missed."""

_TWO = (Capability.PROCESSES,)


async def become(state: State, *breakers: CircuitBreaker, seconds: float | None = None) -> None:
    """Wait until breakers have heard of a state, for `seconds`, by default TOLD.

    Raises:
        BrokenPromiseError: They have not in time.
    """
    seconds = TOLD if seconds is None else seconds
    until = monotonic() + seconds
    while {each.state for each in breakers} != {state}:
        found = [each.state.value for each in breakers]
        promise(monotonic() < until, f"{seconds:g} s after a change to {state.value}: {found}")
        await asyncio.sleep(0.01)


async def _answer(backend: CircuitBreakerBackend, number: int, seconds: float) -> str:
    """See what the parent did, and trip another breaker."""
    await become(State.FORCED_OPEN, breaker(backend, "of the parent"), seconds=seconds)
    each = breaker(backend, "of the child")
    for _ in range(3):
        await fails(each)
    return each.state.value


@clause("circuitbreaker.processes.trip", needs=_TWO, closed=True, seconds=60.0, slow=True)
async def processes_trip(subject: Subject) -> None:
    """What opens in one process opens in the others within seconds, and so do changes by hand.

    What fails for one replica fails for all, and each would have to find out. Report a change at
    once, before the backend is closed at the latest; tell the others, or let them look.
    """
    async with subject.open("circuitbreaker") as backend:
        theirs = breaker(backend, "of the child")
        same(await passes(theirs), True, "let through, before anything failed")
        await breaker(backend, "of the parent").transition_to_forced_open()
        told = await in_processes(subject, "circuitbreaker", _answer, 1, TOLD)
        same(told, [State.OPEN.value], "after three errors in another process")
        await become(State.OPEN, theirs)
        same(await passes(theirs), False, "let through, after it was opened elsewhere")


@clause("circuitbreaker.processes.errors", needs=_TWO, closed=True, seconds=30.0)
async def processes_errors(subject: Subject) -> None:
    """Errors of replicas add up, and open the breaker for all of them.

    Otherwise each of a hundred replicas sends its three requests to what is down. Count in the
    store, and take over what it says.
    """
    one_side, other_side = subject.open("circuitbreaker"), subject.open("circuitbreaker")
    async with one_side as here, other_side as there:
        one, other = breaker(here), breaker(there)
        await fails(one)
        same(one.state, State.CLOSED, "after one error of three")
        for _ in range(2):
            await fails(other)
        await become(State.OPEN, one, other)
        same([await passes(one), await passes(other)], [False, False], "who is let through")


@clause("circuitbreaker.processes.permits", needs=_TWO, closed=True, seconds=30.0)
async def processes_permits(subject: Subject) -> None:
    """Half-open, the permits are those of all replicas together, and so are their successes.

    What has just recovered breaks down again under one call of every replica. Grant permits in the
    store, in one step.
    """
    one_side, other_side = subject.open("circuitbreaker"), subject.open("circuitbreaker")
    settings: dict[str, Any] = {"half_open_capacity": 3, "success_threshold": 4}
    async with one_side as here, other_side as there:
        one, other = breaker(here, **settings), breaker(there, **settings)
        await one.transition_to_half_open()
        await become(State.HALF_OPEN, one, other)
        same(await crowd(one, other), (3, 47), "who ran, and was refused, of 50 calls of two")
        same(await _let_through(other), True, "let through when the others had gone")
        await become(State.CLOSED, one, other)


async def _let_through(each: CircuitBreaker) -> bool:
    """Whether a call is let through once permits are given back, which takes a moment."""
    until = monotonic() + TOLD
    while not await passes(each):
        if monotonic() > until:
            return False
        await asyncio.sleep(0.01)
    return True


@clause("circuitbreaker.model.agrees", closed=True, seconds=60.0, slow=True)
async def model_agrees(subject: Subject) -> None:
    """After any history a call is let through or refused, and states change, as they should.

    Some defects show only after a certain history. Replay the steps that are told, which are as few
    as could be found.
    """
    await agree(subject, "circuitbreaker", _Breakers)


_ERRORS, _SUCCESSES, _PERMITS = 3, 2, 2


def _settled(backend: CircuitBreakerBackend, name: str) -> CircuitBreaker:
    return breaker(
        backend,
        name,
        error_threshold=_ERRORS,
        success_threshold=_SUCCESSES,
        half_open_capacity=_PERMITS,
        ignore_exceptions=LookupError,
    )


@dataclass
class _Call:
    """A call that runs."""

    ending: "asyncio.Future[None]"
    task: "asyncio.Task[None]"
    period: int
    is_probe: bool


@dataclass
class _Known:
    """What is known of a breaker."""

    state: State = State.CLOSED
    period: int = 0
    errors: int = 0
    successes: int = 0
    calls: list[_Call] = field(default_factory=list)

    def change(self, state: State) -> None:
        """Be in a state from now on."""
        self.state, self.period = state, self.period + 1
        self.errors = self.successes = 0

    def lets_through(self) -> bool:
        """Whether the next call may run."""
        if self.state is State.HALF_OPEN:
            return sum(call.is_probe for call in self.calls) < _PERMITS
        return self.state in (State.CLOSED, State.FORCED_CLOSED)

    def ended(self, call: _Call, error: type[BaseException] | None) -> None:
        """A call ended; only FaultError is a failure, and only None a success."""
        self.calls.remove(call)
        if call.period != self.period or error not in (None, FaultError):
            return
        if call.is_probe and error is None:
            self.successes += 1
            if self.successes >= _SUCCESSES:
                self.change(State.CLOSED)
        elif call.is_probe:
            self.change(State.OPEN)
        elif self.state is State.CLOSED:
            self.errors = self.errors + 1 if error else 0
            if self.errors >= _ERRORS:
                self.change(State.OPEN)


class _Breakers(Machine):
    """Two breakers with calls that run at the same time, and what is to come of them."""

    lengths = 40, 80
    steps = (
        *("begin", "begin", "succeed", "succeed", "succeed", "fail", "fail", "fail"),
        *("ignore", "cancel", "half_open", "half_open", "half_open", "change"),
    )

    def begin(self) -> None:
        self.known = {name: _Known() for name in "ab"}
        self.breakers = {name: _settled(self.adapter, name) for name in "ab"}

    def can(self, step: str) -> bool:
        return True

    async def do(self, step: str, first: int, second: int) -> None:
        name = "aab"[first % 3]
        await self._done(step, name, second)
        same(self.breakers[name].state, self.known[name].state, f"the state of {name} after {step}")

    def _done(self, step: str, name: str, number: int) -> Awaitable[None]:
        match step:
            case "begin":
                return self._begin(name)
            case "half_open":
                return self._change(name, State.HALF_OPEN)
            case "change":
                return self._change(name, (State.OPEN, State.FORCED_OPEN, State.CLOSED)[number])
        errors = {"succeed": None, "fail": FaultError, "ignore": KeyError}
        return self._end(name, number, errors.get(step, asyncio.CancelledError))

    async def _begin(self, name: str) -> None:
        known = self.known[name]
        lets, is_probe = known.lets_through(), known.state is State.HALF_OPEN
        try:
            ending, task = await begun(self.breakers[name])
        except CircuitBreakerError:
            promise(not lets, f"a call of {name} was refused that should be let through")
        else:
            known.calls.append(_Call(ending, task, known.period, is_probe))
            promise(lets, f"a call of {name} was let through that should be refused")

    async def _end(self, name: str, number: int, error: Any) -> None:
        known = self.known[name]
        if not known.calls:
            await self._begin(name)
        if not known.calls:
            return
        call = known.calls[number % len(known.calls)]
        if error is asyncio.CancelledError:
            call.task.cancel()
            await asyncio.wait([call.task])
        else:
            await end(call.ending, call.task, error)
        known.ended(call, error)

    async def _change(self, name: str, state: State) -> None:
        each = self.breakers[name]
        changes = {
            State.OPEN: each.transition_to_open,
            State.FORCED_OPEN: each.transition_to_forced_open,
            State.CLOSED: each.transition_to_closed,
            State.HALF_OPEN: each.transition_to_half_open,
        }
        changes[state]()
        self.known[name].change(state)

    async def end(self) -> None:
        calls = [call for known in self.known.values() for call in known.calls]
        for call in calls:
            call.task.cancel()
        with suppress(ValueError):  # there are none
            await asyncio.wait([call.task for call in calls])
