"""Circuit breakers in one process: what trips them, what they let through, what says nothing."""

import asyncio
import pickle
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from grelmicro import Grelmicro, NoActiveAppError
from grelmicro.resilience import (
    Breaker,
    CircuitBreaker,
    CircuitBreakerError,
    CircuitBreakerEvent,
    CircuitBreakerState,
    ResilienceSettingsValidationError,
    _circuit,
)
from grelmicro.resilience.memory import MemoryCircuitBreakerAdapter

CLOSED = CircuitBreakerState.CLOSED
OPEN = CircuitBreakerState.OPEN
HALF_OPEN = CircuitBreakerState.HALF_OPEN


class FaultError(Exception):
    """What fails."""


class Clock:
    """A monotonic clock that the test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(_circuit, "monotonic", clock)
    return clock


def breaker(**settings: Any) -> CircuitBreaker:
    usual: dict[str, Any] = {"backend": MemoryCircuitBreakerAdapter()}
    return CircuitBreaker("b", **usual | settings)


async def succeed(each: CircuitBreaker) -> None:
    async with each:
        pass


async def fail(each: CircuitBreaker, error: type[Exception] = FaultError) -> None:
    with pytest.raises(error):
        async with each:
            raise error


async def fail_after(each: CircuitBreaker, step: Callable[[], Awaitable[object]]) -> None:
    """Fail in a call in which something happened."""

    async def call() -> None:
        async with each:
            await step()
            raise FaultError

    with pytest.raises(FaultError):
        await call()


async def trip(each: CircuitBreaker) -> None:
    while each.state is not OPEN:
        await fail(each)


async def half_open(each: CircuitBreaker, clock: Clock, *, by: float = 30.0) -> None:
    """Trip it and let its time pass: the next call is let through half-open."""
    await trip(each)
    clock.now += by


def test_a_state_is_its_name() -> None:
    assert [*CircuitBreakerState] == [
        *("CLOSED", "OPEN", "HALF_OPEN", "FORCED_OPEN", "FORCED_CLOSED")
    ]


async def test_errors_in_a_row_open_it_and_it_says_for_how_long(clock: Clock) -> None:
    each = breaker()
    for _ in range(4):
        await fail(each)
    await succeed(each)
    for _ in range(4):
        await fail(each)
    assert each.state is CLOSED
    await fail(each, KeyError)
    assert each.state is OPEN
    clock.now += 10
    with pytest.raises(
        CircuitBreakerError, match=r"'b' lets no call through: try again in 20 s"
    ) as at:
        await succeed(each)
    assert (at.value.name, at.value.retry_after) == ("b", 20)
    assert isinstance(at.value.last_error, KeyError)
    assert at.value.last_error is each.last_error
    assert at.value.last_error_time is not None
    assert abs(at.value.last_error_time - datetime.now(UTC)) < timedelta(minutes=1)
    assert str(pickle.loads(pickle.dumps(at.value))) == str(at.value)


async def test_after_its_time_it_lets_calls_through_and_closes_when_they_succeed(
    clock: Clock,
) -> None:
    each = breaker()
    await half_open(each, clock, by=29.9)
    with pytest.raises(CircuitBreakerError):
        await succeed(each)
    clock.now += 0.1
    await succeed(each)
    assert each.state is HALF_OPEN
    await succeed(each)
    assert each.state is CLOSED
    assert each.metrics().errors_in_a_row == 0


async def test_a_failure_while_half_open_opens_it_for_the_whole_time(clock: Clock) -> None:
    each = breaker(success_threshold=3)
    await half_open(each, clock)
    await succeed(each)
    await succeed(each)
    await fail(each)
    assert each.state is OPEN
    clock.now += 29
    with pytest.raises(CircuitBreakerError):
        await succeed(each)
    clock.now += 1
    for state in (HALF_OPEN, HALF_OPEN, CLOSED):
        await succeed(each)
        assert each.state is state


@pytest.mark.parametrize("permits", [1, 3])
async def test_half_open_runs_exactly_so_many_bodies_of_fifty_callers(
    clock: Clock, permits: int
) -> None:
    each = breaker(half_open_capacity=permits, success_threshold=100)
    await half_open(each, clock)
    for _ in range(3):  # more successes are asked for than there are permits
        running, go = 0, asyncio.Event()

        async def call(go: asyncio.Event = go) -> None:
            nonlocal running
            async with each:
                running += 1
                await go.wait()

        calls = [asyncio.create_task(call()) for _ in range(50)]
        done, pending = await asyncio.wait(calls, timeout=0.05)
        assert (running, len(pending)) == (permits, permits)
        assert all(isinstance(call.exception(), CircuitBreakerError) for call in done)
        go.set()
        await asyncio.gather(*pending)
    assert each.state is HALF_OPEN


async def test_a_probe_of_before_still_counts_as_one_that_runs(clock: Clock) -> None:
    each = breaker(half_open_capacity=2)
    await half_open(each, clock)
    go = asyncio.Event()

    async def slow() -> None:
        async with each:
            await go.wait()

    first = asyncio.create_task(slow())
    await asyncio.sleep(0)
    await fail(each)
    clock.now += 30
    second = asyncio.create_task(slow())
    await asyncio.sleep(0)
    with pytest.raises(CircuitBreakerError):
        await succeed(each)
    go.set()
    await asyncio.gather(first, second)
    assert each.state is HALF_OPEN  # the first one belonged to the time before
    await succeed(each)
    assert each.state is CLOSED


async def test_a_cancelled_call_is_nothing_and_gives_its_permit_back(clock: Clock) -> None:
    each = breaker(success_threshold=1)
    for _ in range(10):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0), each:
                await asyncio.sleep(60)
    assert (each.state, each.metrics().cancelled, each.metrics().failures) == (CLOSED, 10, 0)
    await half_open(each, clock)
    for _ in range(3):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0), each:
                await asyncio.sleep(60)
        assert each.state is HALF_OPEN
    await succeed(each)
    assert each.state is CLOSED


async def test_a_generator_that_is_closed_is_nothing_and_gives_its_permit_back(
    clock: Clock,
) -> None:
    each = breaker(success_threshold=1)

    async def stream() -> Any:
        async with each:
            yield 1
            yield 2

    await half_open(each, clock)
    generator = stream()
    assert await anext(generator) == 1
    await generator.aclose()
    assert each.state is HALF_OPEN
    assert each.metrics().cancelled == 1
    await succeed(each)
    assert each.state is CLOSED


async def test_a_generator_that_is_closed_by_another_task_gives_its_permit_back(
    clock: Clock,
) -> None:
    each = breaker(success_threshold=1)
    await half_open(each, clock)

    async def stream() -> Any:
        async with each:
            yield 1

    async def begin() -> Any:
        generator = stream()
        await anext(generator)
        return generator

    generator = await asyncio.create_task(begin())
    with pytest.raises(CircuitBreakerError):
        await succeed(each)
    await generator.aclose()
    del generator
    await asyncio.sleep(0)  # the loop lets go of what it ran
    await succeed(each)
    assert each.state is CLOSED


async def test_an_ignored_exception_is_counted_and_is_neither_success_nor_failure(
    clock: Clock,
) -> None:
    each = breaker(ignore_exceptions=LookupError, error_threshold=2, success_threshold=1)
    await fail(each)
    for _ in range(5):
        await fail(each, KeyError)
    assert (each.metrics().ignored, each.metrics().errors_in_a_row) == (5, 1)
    await half_open(each, clock)
    for _ in range(5):
        await fail(each, KeyError)
        assert each.state is HALF_OPEN
    await succeed(each)
    assert each.state is CLOSED


@pytest.mark.parametrize("error", [None, FaultError])
@pytest.mark.parametrize("turns", [1, 2, 3, 4])
async def test_a_call_of_another_time_changes_nothing(
    clock: Clock, turns: int, error: type[Exception] | None
) -> None:
    each = breaker(error_threshold=1, success_threshold=2)
    go = asyncio.Event()

    async def late() -> None:
        async with each:
            await go.wait()
            if error is not None:
                raise error

    call = asyncio.create_task(late())
    await asyncio.sleep(0)
    for turn, step in enumerate((trip, succeed, succeed, succeed), 1):
        if turn == 2:
            clock.now += 30
        if turn <= turns:
            await step(each)
    before = each.state
    assert before is (OPEN, HALF_OPEN, CLOSED, CLOSED)[turns - 1]
    went_well = each.metrics().successes
    go.set()
    await asyncio.wait([call])
    assert isinstance(call.exception(), error or type(None))
    assert each.state is before
    assert each.metrics().errors_in_a_row == 0
    assert each.metrics().successes == went_well + (error is None)
    if before is HALF_OPEN:  # with one success, whatever the late one was
        await succeed(each)
        assert each.state is CLOSED


async def test_forced_states_stay_until_somebody_changes_them(clock: Clock) -> None:
    each = breaker(error_threshold=1)
    each.transition_to_forced_open()
    clock.now += 1e6
    with pytest.raises(CircuitBreakerError) as at:
        await succeed(each)
    assert at.value.retry_after is None
    assert each.state is CircuitBreakerState.FORCED_OPEN
    await each.transition_to_forced_closed()
    for _ in range(10):
        await fail(each)
    await succeed(each)
    assert each.metrics().state is CircuitBreakerState.FORCED_CLOSED
    each.restart()
    assert (each.state, each.last_error) == (CLOSED, None)
    await fail(each)
    assert each.state is OPEN


async def test_changes_by_hand_take_effect_at_once(clock: Clock) -> None:
    each = breaker()
    each.transition_to_open()
    with pytest.raises(CircuitBreakerError):
        await succeed(each)
    each.transition_to_half_open()
    await succeed(each)
    assert each.state is HALF_OPEN
    await each.transition_to_closed()
    await fail(each)
    assert each.metrics().successes == 1
    await each.restart()
    assert each.metrics()[2:9] == (0, 0, 0, 0, 0, 0, 0)


async def test_steps_of_the_wall_clock_change_nothing(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Yesterday(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime(2001, 1, 1, tzinfo=tz)

    each = breaker()
    await trip(each)
    monkeypatch.setattr(_circuit, "datetime", Yesterday)
    monkeypatch.setattr("time.time", lambda: 0.0)
    clock.now += 29
    with pytest.raises(CircuitBreakerError) as at:
        await succeed(each)
    assert at.value.retry_after == 1
    clock.now += 1
    await fail(each)
    assert each.metrics().last_error_time == datetime(2001, 1, 1, tzinfo=UTC)
    clock.now += 30
    await succeed(each)


async def test_failures_beyond_their_share_open_it_when_there_are_enough_calls() -> None:
    each = breaker(failure_rate=0.5, window=4)
    for _ in range(3):
        await fail(each)
    assert each.state is CLOSED
    await succeed(each)
    assert each.state is OPEN


async def test_a_window_of_calls_forgets_the_oldest() -> None:
    each = breaker(failure_rate=0.5, window=4, minimum_calls=4)
    await fail(each)
    for _ in range(3):
        await succeed(each)
    await succeed(each)
    assert each.metrics().failure_rate == 0
    await fail(each)
    assert (each.state, each.metrics().failure_rate) == (CLOSED, 0.25)
    await fail(each)
    assert each.state is OPEN


async def test_a_window_of_seconds_forgets_what_is_older(clock: Clock) -> None:
    each = breaker(failure_rate=0.5, window_seconds=10, minimum_calls=2)
    await fail(each)
    clock.now += 8.9
    assert each.metrics().failure_rate == 1
    clock.now += 1.1
    assert each.metrics().failure_rate is None
    await fail(each)
    assert each.state is CLOSED
    await fail(each)
    assert each.state is OPEN


async def test_slow_calls_beyond_their_share_open_it(clock: Clock) -> None:
    each = breaker(
        slow_call_rate=0.5, slow_call_duration=1, minimum_calls=2, window=2, success_threshold=1
    )

    async def last(seconds: float) -> None:
        async with each:
            clock.now += seconds

    for seconds in (1, 1, 1.1):
        await last(seconds)
    assert (each.state, each.metrics().slow, each.metrics().failures) == (OPEN, 1, 0)
    clock.now += 30
    await last(2)
    assert each.state is OPEN
    clock.now += 30
    await last(1)
    assert each.state is CLOSED


async def test_only_rates_count_where_there_are_rates() -> None:
    each = breaker(failure_rate=1, window=100, minimum_calls=50)
    for _ in range(49):
        await fail(each)
    assert each.state is CLOSED
    assert each.metrics().errors_in_a_row == 0


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"name": ""}, "name"),
        ({"name": "a\0"}, "name"),
        ({"ignore_exceptions": 3}, "ignore_exceptions"),
        ({"ignore_exceptions": [int]}, "ignore_exceptions"),
        *(({"error_threshold": bad}, "error_threshold") for bad in (0, -1, True, 1.5, "1")),
        *(({"success_threshold": bad}, "success_threshold") for bad in (0, -1, True, 1.5, "1")),
        ({"half_open_capacity": 0}, "half_open_capacity"),
        *(({"reset_timeout": bad}, "reset_timeout") for bad in (0, -1, 0.0001, "1", True)),
        *(({"reset_timeout": bad}, "reset_timeout") for bad in (float("nan"), float("inf"))),
        *(({"failure_rate": bad}, "failure_rate") for bad in (0, -0.1, 1.01, float("nan"), True)),
        ({"slow_call_rate": 0, "slow_call_duration": 1}, "slow_call_rate"),
        ({"slow_call_rate": 0.5}, "slow_call_duration"),
        ({"slow_call_rate": 0.5, "slow_call_duration": 0}, "slow_call_duration"),
        ({"failure_rate": 0.5, "slow_call_duration": 1}, "slow_call_duration"),
        ({"slow_call_duration": 1}, "slow_call_duration"),
        ({"window": 10}, "window"),
        ({"window_seconds": 10}, "window_seconds"),
        ({"minimum_calls": 10}, "minimum_calls"),
        ({"failure_rate": 0.5, "error_threshold": 5}, "error_threshold"),
        ({"failure_rate": 0.5, "window": 10, "window_seconds": 10}, "window_seconds"),
        ({"failure_rate": 0.5, "window": 0}, "window"),
        ({"failure_rate": 0.5, "window_seconds": 0}, "window_seconds"),
        ({"failure_rate": 0.5, "minimum_calls": 0}, "minimum_calls"),
        ({"failure_rate": 0.5, "minimum_calls": 101}, "minimum_calls"),
        ({"failure_rate": 0.5, "window": 10, "minimum_calls": 11}, "minimum_calls"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be_used_are_named(settings: dict[str, Any], field: str) -> None:
    usual: dict[str, Any] = {"name": "b"}
    with pytest.raises(ResilienceSettingsValidationError, match=f"^{field}: ") as at:
        CircuitBreaker(**usual | settings)
    assert isinstance(at.value, ValueError)


def test_a_backend_is_a_backend() -> None:
    with pytest.raises(TypeError, match="CircuitBreakerBackend"):
        CircuitBreaker("b", backend=3)


async def test_listeners_hear_of_changes_and_cannot_break_them(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[CircuitBreakerEvent] = []

    def broken(event: CircuitBreakerEvent) -> None:
        raise RuntimeError(event.after)

    each = breaker(error_threshold=1, success_threshold=1, listeners=[heard.append])
    each.add_listener(broken)
    await half_open(each, clock)
    await succeed(each)
    changes = [(CLOSED, OPEN), (OPEN, HALF_OPEN), (HALF_OPEN, CLOSED)]
    assert heard == [("b", *change) for change in changes]
    assert [record.message for record in caplog.records] == [
        "a listener of the circuit breaker 'b' failed"
    ] * 3
    each.remove_listener(heard.append)
    await trip(each)
    assert len(heard) == 3


async def test_calls_of_one_breaker_may_stand_within_each_other(clock: Clock) -> None:
    each = breaker(error_threshold=2, success_threshold=1)

    @each
    async def down(depth: int) -> int:
        return depth if not depth else await down(depth - 1)

    assert await down(5) == 0
    assert each.metrics().successes == 6
    await half_open(each, clock)
    assert await down(5) == 0  # on one permit
    assert each.state is CLOSED
    async with each:
        await trip(each)
        with pytest.raises(CircuitBreakerError):
            await succeed(each)
    assert each.state is OPEN
    clock.now += 30
    async with each:  # half-open: a task of its own is another call
        with pytest.raises(CircuitBreakerError):
            await asyncio.create_task(succeed(each))
    assert each.state is CLOSED


async def test_a_call_that_its_own_breaker_refuses_within_it_is_no_failure(clock: Clock) -> None:
    each = breaker(error_threshold=1, success_threshold=1)
    await half_open(each, clock)
    with pytest.raises(CircuitBreakerError):
        async with each:
            await asyncio.create_task(succeed(each))
    assert each.state is HALF_OPEN


async def test_breakers_may_stand_within_each_other_and_end_in_any_order(clock: Clock) -> None:
    backend = MemoryCircuitBreakerAdapter()
    one, two = (
        CircuitBreaker(name, error_threshold=1, success_threshold=1, backend=backend)
        for name in ("one", "two")
    )
    for each in (one, two):
        await half_open(each, clock, by=0)
    clock.now += 30
    await one.__aenter__()
    await two.__aenter__()
    await one.__aexit__(None, None, None)
    assert (one.state, two.state) == (CLOSED, HALF_OPEN)
    await two.__aexit__(None, None, None)
    assert two.state is CLOSED
    await two.__aexit__(None, None, None)  # one too many says nothing
    assert two.metrics().successes == 1


async def test_a_failure_passes_the_breakers_around_it(clock: Clock) -> None:
    backend = MemoryCircuitBreakerAdapter()
    inner = CircuitBreaker("inner", error_threshold=1, backend=backend)
    outer = CircuitBreaker("outer", error_threshold=2, backend=backend)
    for _ in range(2):
        with pytest.raises((FaultError, CircuitBreakerError)):
            async with outer, inner:
                raise FaultError
    assert (inner.state, outer.state) == (OPEN, OPEN)


async def test_an_exit_stack_will_do(clock: Clock) -> None:
    each = breaker(success_threshold=1)
    await half_open(each, clock)
    async with AsyncExitStack() as stack:
        assert await stack.enter_async_context(each) is each
    assert each.state is CLOSED


async def test_breakers_of_one_name_share_their_state_on_one_backend() -> None:
    backend = MemoryCircuitBreakerAdapter()
    one, two, other = (CircuitBreaker(name, backend=backend) for name in "bbc")
    await trip(one)
    assert (one.state, two.state, other.state) == (OPEN, OPEN, CLOSED)
    assert breaker().state is CLOSED


async def test_the_open_apps_backend_serves_on_every_call() -> None:
    each = CircuitBreaker("b", error_threshold=1)
    with pytest.raises(NoActiveAppError):
        await succeed(each)
    micro = Grelmicro(uses=[Breaker(MemoryCircuitBreakerAdapter())])
    async with micro:
        await trip(each)
        async with micro.override(Breaker(MemoryCircuitBreakerAdapter())):
            await succeed(each)
            assert each.state is CLOSED
        assert each.state is OPEN
        async with micro.override(Breaker(MemoryCircuitBreakerAdapter())), each:
            pass
    with pytest.raises(NoActiveAppError):
        await succeed(each)
    async with micro:  # closed in between: as new
        await succeed(each)
        assert each.state is CLOSED


async def test_a_call_belongs_to_the_backend_it_began_on() -> None:
    each = CircuitBreaker("b", error_threshold=1)
    async with Grelmicro(uses=[MemoryCircuitBreakerAdapter()]) as micro:
        override = micro.override(MemoryCircuitBreakerAdapter())
        await fail_after(each, override.__aenter__)
        assert each.state is CLOSED
        await override.__aexit__(None, None, None)
        assert each.state is OPEN


async def test_closing_the_backend_resets_breakers_and_forgets_calls_that_run() -> None:
    backend = MemoryCircuitBreakerAdapter()
    each = CircuitBreaker("b", error_threshold=1, backend=backend)

    async def open_and_close() -> None:
        async with backend:
            each.transition_to_forced_open()

    await fail_after(each, open_and_close)
    assert each.state is CLOSED
    assert each.metrics().errors_in_a_row == 0


async def test_a_patched_backend_is_honoured() -> None:
    backend, other = MemoryCircuitBreakerAdapter(), MemoryCircuitBreakerAdapter()
    each = CircuitBreaker("b", error_threshold=1, backend=backend)
    await succeed(each)
    backend.circuit = other.circuit  # type: ignore[method-assign]  # what a spy does
    await trip(each)
    assert CircuitBreaker("b", error_threshold=1, backend=other).state is OPEN


async def test_decorated_functions_are_themselves_and_guarded() -> None:
    each = breaker(error_threshold=1)

    class Client:
        @each
        async def get(self, what: str) -> str:
            """Fetch."""
            if what == "bad":
                raise FaultError
            return what

    assert await Client().get("good") == "good"
    assert (Client.get.__name__, Client.get.__doc__) == ("get", "Fetch.")
    with pytest.raises(FaultError):
        await Client().get("bad")
    with pytest.raises(CircuitBreakerError):
        await Client().get("good")


@pytest.mark.parametrize("wrong", [int, 3, staticmethod(print), (lambda: (yield))])
def test_what_is_no_function_is_not_decorated(wrong: Any) -> None:
    decorate: Callable[[Any], Any] = breaker()
    with pytest.raises(TypeError, match="breaker: "):
        decorate(wrong)
