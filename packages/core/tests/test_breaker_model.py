"""Circuit breakers against a model of them, over random calls and times."""

import asyncio
from collections import deque
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from grelmicro.resilience import (
    CircuitBreaker,
    CircuitBreakerError,
    CircuitBreakerMetrics,
    _circuit,
)
from grelmicro.resilience.memory import MemoryCircuitBreakerAdapter

SETTINGS: list[dict[str, Any]] = [
    {"error_threshold": 2, "success_threshold": 2},
    {"error_threshold": 1, "success_threshold": 3, "half_open_capacity": 2},
    {"failure_rate": 0.5, "window": 4, "minimum_calls": 3, "half_open_capacity": 2},
    {"failure_rate": 0.5, "window_seconds": 10, "minimum_calls": 2, "success_threshold": 1},
    {"slow_call_rate": 0.5, "slow_call_duration": 3, "window": 3, "minimum_calls": 2},
]
ENDS = st.sampled_from(["well", "well", "badly", "badly", "ignored", "cancelled"])


class Calls(RuleBasedStateMachine):
    """Calls that begin, end in any order, and what the model says of them."""

    @initialize(chosen=st.sampled_from(SETTINGS))
    def begin(self, chosen: dict[str, Any]) -> None:
        self.now, self.chosen = 1000.0, chosen
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(_circuit, "monotonic", lambda: self.now)
        self.runner = asyncio.Runner()
        usual: dict[str, Any] = {"success_threshold": 2}
        self.breaker = CircuitBreaker(
            "b",
            **usual | chosen,
            reset_timeout=10,
            ignore_exceptions=KeyError,
            backend=MemoryCircuitBreakerAdapter(),
        )
        self.running: list[tuple[asyncio.Task[None], asyncio.Future[str], int, float, bool]] = []
        self.seen = dict.fromkeys(["well", "badly", "ignored", "cancelled", "refused"], 0)
        self.epoch = 0
        self.enter_state("CLOSED")

    def enter_state(self, state: str) -> None:
        self.state, self.epoch = state, self.epoch + 1
        self.errors = self.successes = 0
        self.until = self.now + 10
        self.latest: deque[tuple[float, bool, bool]] = deque(maxlen=self.chosen.get("window"))

    def let_it_run(self) -> None:
        async def turns() -> None:
            for _ in range(3):
                await asyncio.sleep(0)

        self.runner.run(turns())

    async def call(self, end: "asyncio.Future[str]") -> None:
        async with self.breaker:
            how = await end
            if how in ("badly", "ignored"):
                raise ValueError if how == "badly" else KeyError

    @rule()
    def a_call_begins(self) -> None:
        if self.state == "OPEN" and self.now >= self.until:
            self.enter_state("HALF_OPEN")
        probes = sum(call[4] for call in self.running)
        room = probes < self.chosen.get("half_open_capacity", 1)
        admitted = {"HALF_OPEN": room, "OPEN": False, "FORCED_OPEN": False}.get(self.state, True)
        end: asyncio.Future[str] = self.runner.get_loop().create_future()
        task = self.runner.get_loop().create_task(self.call(end))
        self.let_it_run()
        assert task.done() != admitted
        if admitted:
            probe = self.state == "HALF_OPEN"
            self.running.append((task, end, self.epoch, self.now, probe))
        else:
            self.seen["refused"] += 1
            assert isinstance(task.exception(), CircuitBreakerError)

    @precondition(lambda self: self.running)
    @rule(number=st.integers(0, 9), how=ENDS)
    def a_call_ends(self, number: int, how: str) -> None:
        task, end, epoch, started, probe = self.running.pop(number % len(self.running))
        if how == "cancelled":
            task.cancel()
        else:
            end.set_result(how)
        self.let_it_run()
        assert task.done()
        assert task.cancelled() or task.exception() is None or how != "well"
        self.seen[how] += 1
        slow = self.now - started > self.chosen.get("slow_call_duration", 1e9)
        if how in ("well", "badly") and epoch == self.epoch:
            self.a_call_told(how == "badly", slow, probe)

    def a_call_told(self, failed: bool, slow: bool, probe: bool) -> None:
        if probe and (failed or slow):
            self.enter_state("OPEN")
        elif probe:
            self.successes += 1
            if self.successes == self.chosen.get("success_threshold", 2):
                self.enter_state("CLOSED")
        elif self.state == "CLOSED":
            self.latest.append((self.now, failed, slow))
            self.errors = self.errors + 1 if failed else 0
            if self.trips():
                self.enter_state("OPEN")

    def trips(self) -> bool:
        if "error_threshold" in self.chosen:
            return self.errors >= int(self.chosen["error_threshold"])
        latest = self.in_window()
        if len(latest) < self.chosen["minimum_calls"]:
            return False
        if "failure_rate" in self.chosen:
            return 2 * sum(call[1] for call in latest) >= len(latest)
        return 2 * sum(call[2] for call in latest) >= len(latest)

    def in_window(self) -> list[tuple[float, bool, bool]]:
        """Whole seconds are the tenths of a window of ten."""
        if "window_seconds" not in self.chosen:
            return [*self.latest]
        return [call for call in self.latest if int(call[0]) > int(self.now) - 10]

    @rule(seconds=st.sampled_from([0.5, 1, 4, 9, 10, 11]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(state=st.sampled_from(["closed", "open", "half_open", "forced_open", "forced_closed"]))
    def somebody_changes_it(self, state: str) -> None:
        getattr(self.breaker, f"transition_to_{state}")()
        self.enter_state(state.upper())

    @invariant()
    def they_agree(self) -> None:
        metrics: CircuitBreakerMetrics = self.breaker.metrics()
        assert self.breaker.state == self.state
        assert [*self.seen.values()] == [
            *(metrics.successes, metrics.failures, metrics.ignored, metrics.cancelled),
            metrics.rejected,
        ]
        if "error_threshold" in self.chosen:
            assert metrics.errors_in_a_row == self.errors
        elif latest := self.in_window():
            assert metrics.failure_rate == sum(call[1] for call in latest) / len(latest)
        else:
            assert metrics.failure_rate is None

    def teardown(self) -> None:
        for call in self.running:
            call[0].cancel()
        self.let_it_run()
        self.runner.close()
        self.patch.undo()


TestCalls = Calls.TestCase
TestCalls.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
