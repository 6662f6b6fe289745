"""Circuit breakers that a fleet shares: trips, counts, permits, faults, on every server."""

import asyncio
import sys
from collections.abc import Callable
from time import monotonic
from typing import Any
from uuid import uuid4

import pytest
from lock_fleet import Fleet

from grelmicro.resilience import CircuitBreaker, CircuitBreakerError, CircuitBreakerState
from grelmicro.resilience import _fleet as fleet_module

CLOSED = CircuitBreakerState.CLOSED
OPEN = CircuitBreakerState.OPEN
HALF_OPEN = CircuitBreakerState.HALF_OPEN
FORCED_OPEN = CircuitBreakerState.FORCED_OPEN


class FaultError(Exception):
    """What fails."""


class Replicas:
    """Breakers of one name, each on a provider of its own."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.name = f"b-{uuid4().hex}"
        self.provider: Any = None

    async def backend(self, url: str | None = None, **settings: Any) -> Any:
        return await self.fleet.breakers(url, **settings)

    async def replica(self, url: str | None = None, **settings: Any) -> CircuitBreaker:
        lease, timeout = settings.pop("permit_lease", 5.0), settings.pop("timeout", 5.0)
        backend = await self.backend(url, permit_lease=lease, timeout=timeout)
        each = CircuitBreaker(self.name, backend=backend, **settings)
        assert each.state is CLOSED
        return each

    async def replicas(self, number: int, **settings: Any) -> list[CircuitBreaker]:
        return [await self.replica(**settings) for _ in range(number)]


@pytest.fixture
def those(fleet: Fleet) -> Replicas:
    return Replicas(fleet)


async def succeed(each: CircuitBreaker) -> None:
    async with each:
        pass


async def fail(each: CircuitBreaker) -> None:
    with pytest.raises(FaultError):
        async with each:
            raise FaultError


async def until(condition: Callable[[], object], seconds: float = 5.0) -> float:
    started = monotonic()
    while not condition():
        assert monotonic() - started < seconds, "nothing came of it"
        await asyncio.sleep(0.005)
    return monotonic() - started


async def all_are(breakers: list[CircuitBreaker], state: CircuitBreakerState) -> float:
    return await until(lambda: all(each.state is state for each in breakers))


async def listening(breakers: list[CircuitBreaker]) -> None:
    """See that all of them hear of changes: by one that does not matter."""
    breakers[0].transition_to_forced_closed()
    await all_are(breakers, CircuitBreakerState.FORCED_CLOSED)
    await breakers[0].restart()
    await all_are(breakers, CLOSED)


async def test_a_trip_on_one_replica_is_seen_by_the_others_within_a_second(
    those: Replicas,
) -> None:
    breakers = await those.replicas(4, error_threshold=3)
    await listening(breakers)
    for _ in range(3):
        await fail(breakers[0])
    assert breakers[0].state is OPEN
    assert await all_are(breakers, OPEN) < 1
    for each in breakers:
        with pytest.raises(CircuitBreakerError) as at:
            await succeed(each)
        assert at.value.retry_after is not None
        assert 20 < at.value.retry_after <= 30


async def test_few_errors_of_each_replica_add_up(those: Replicas) -> None:
    breakers = await those.replicas(5, error_threshold=10)
    await listening(breakers)
    for each in breakers:
        for _ in range(2):
            await fail(each)
    assert await all_are(breakers, OPEN) < 1


async def test_a_success_after_an_error_ends_the_row_for_all(those: Replicas) -> None:
    one, two = await those.replicas(2, error_threshold=3)
    await listening([one, two])
    for _ in range(5):
        await fail(one)
        await fail(two)
        await until(lambda: one.metrics().errors_in_a_row + two.metrics().errors_in_a_row > 2)
        await succeed(one)
        await succeed(two)
        await until(lambda: not (fleet_of(one)._pushers or fleet_of(two)._pushers))
    assert (one.state, two.state) == (CLOSED, CLOSED)


@pytest.mark.parametrize("window", [{"window": 40}, {"window_seconds": 20}])
async def test_rates_are_of_the_calls_of_all(those: Replicas, window: dict[str, float]) -> None:
    settings: dict[str, Any] = {"failure_rate": 0.5, "minimum_calls": 20, **window}
    breakers = await those.replicas(3, **settings)
    await listening(breakers)
    for _ in range(2):
        for each in breakers:
            for _ in range(3):
                await fail(each)
            await succeed(each)
    # 24 calls, 18 of them failed; 8 of each replica are too few for it alone
    await all_are(breakers, OPEN)


async def test_successes_of_others_count_in_rates(those: Replicas) -> None:
    one, two = await those.replicas(2, failure_rate=0.5, window=100, minimum_calls=20)
    await listening([one, two])
    for _ in range(19):
        await succeed(two)
    await until(lambda: not fleet_of(two)._circuits[key_of(two)].is_news)
    for _ in range(18):
        await fail(one)
    await until(lambda: not fleet_of(one)._circuits[key_of(one)].is_news)
    await until(lambda: not fleet_of(one)._pushers)
    assert (one.state, two.state) == (CLOSED, CLOSED)
    await fail(one)
    await all_are([one, two], OPEN)


def fleet_of(each: CircuitBreaker) -> Any:
    backend: Any = each.backend
    return backend._fleet


def key_of(each: CircuitBreaker) -> tuple[str, Any]:
    return each.name, each.config


@pytest.mark.parametrize("permits", [1, 3])
async def test_half_open_runs_exactly_so_many_bodies_in_the_whole_fleet(
    those: Replicas, permits: int
) -> None:
    breakers = await those.replicas(
        3, half_open_capacity=permits, success_threshold=7, reset_timeout=0.2
    )
    await listening(breakers)
    await breakers[0].transition_to_open()
    await all_are(breakers, OPEN)
    await asyncio.sleep(0.3)
    running = most = ran = 0

    async def call(each: CircuitBreaker, go: asyncio.Event) -> None:
        nonlocal running, most, ran
        async with each:
            running, ran = running + 1, ran + 1
            most = max(most, running)
            await go.wait()
            running -= 1

    while ran < 7:
        go, before = asyncio.Event(), ran
        calls = [asyncio.create_task(call(breakers[i % 3], go)) for i in range(50)]
        await until(lambda n=before: ran == n + permits or all_closed(breakers))  # type: ignore[misc]  # bound
        await until(lambda each=calls: sum(c.done() for c in each) == 50 - permits)  # type: ignore[misc]  # bound
        go.set()
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        refused = [each for each in outcomes if each is not None]
        assert all(isinstance(each, CircuitBreakerError) for each in refused)
    assert most == permits
    await all_are(breakers, CLOSED)


def all_closed(breakers: list[CircuitBreaker]) -> bool:
    return all(each.state is CLOSED for each in breakers)


async def test_a_failed_probe_opens_it_for_all_and_a_cancelled_one_gives_its_permit_back(
    those: Replicas,
) -> None:
    one, two = await those.replicas(2, reset_timeout=0.2, success_threshold=1)
    await listening([one, two])
    await one.transition_to_half_open()
    await all_are([one, two], HALF_OPEN)
    for _ in range(3):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05), one:
                await asyncio.sleep(60)
    await until_it_passes(two, error=FaultError)
    assert await all_are([one, two], OPEN) < 1
    await asyncio.sleep(0.3)
    await until_it_passes(one)
    assert await all_are([one, two], CLOSED) < 1


async def until_it_passes(each: CircuitBreaker, error: type[Exception] | None = None) -> None:
    """Call until the permit of another has come back."""
    for _ in range(200):
        try:
            async with each:
                if error is not None:
                    raise error
            return
        except CircuitBreakerError:
            await asyncio.sleep(0.01)
        except FaultError:
            return
    raise AssertionError("nothing passes")


async def test_who_is_cancelled_while_it_asks_leaves_no_permit_taken(those: Replicas) -> None:
    one, two = await those.replicas(2, success_threshold=1, permit_lease=60)
    await listening([one, two])
    await one.transition_to_half_open()
    await all_are([one, two], HALF_OPEN)
    for turns in range(12):
        call = asyncio.create_task(succeed_forever(one))
        for _ in range(turns):
            await asyncio.sleep(0)
        call.cancel()
        await asyncio.wait([call])
    await until_it_passes(two)
    await all_are([one, two], CLOSED)


async def succeed_forever(each: CircuitBreaker) -> None:
    async with each:
        await asyncio.sleep(60)


async def test_a_probe_that_takes_longer_than_its_lease_keeps_its_permit(
    those: Replicas,
) -> None:
    one, two = await those.replicas(2, success_threshold=1, permit_lease=0.3)
    await listening([one, two])
    await one.transition_to_half_open()
    await all_are([one, two], HALF_OPEN)
    async with one:
        for _ in range(20):
            with pytest.raises(CircuitBreakerError):
                await succeed(two)
            await asyncio.sleep(0.05)
    assert await all_are([one, two], CLOSED) < 1


PROBER = """
import asyncio, sys
from grelmicro.providers import from_url
from grelmicro.resilience import CircuitBreaker

async def main(url, option, space, name):
    async with from_url(url) as provider:
        async with provider.breaker(**{option: space, "permit_lease": 0.5}) as backend:
            breaker = CircuitBreaker(name, success_threshold=1, backend=backend)
            await breaker.transition_to_half_open()
            async with breaker:
                print("probes", flush=True)
                await asyncio.sleep(60)

asyncio.run(main(*sys.argv[1:]))
"""


async def test_the_permit_of_a_killed_replica_is_free_after_its_lease(those: Replicas) -> None:
    each = await those.replica(success_threshold=1, permit_lease=0.5)
    option, space = those.fleet.breaker_space()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PROBER, those.fleet.url, option, space, those.name),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"probes\n"
    await all_are([each], HALF_OPEN)
    for _ in range(10):
        with pytest.raises(CircuitBreakerError):
            await succeed(each)
        await asyncio.sleep(0.1)
    process.kill()
    await process.wait()
    await until_it_passes(each)
    assert each.state is CLOSED


async def test_forced_states_are_the_fleets_and_stay(those: Replicas) -> None:
    one, two = await those.replicas(2, error_threshold=1)
    await listening([one, two])
    await one.transition_to_forced_open()
    assert await all_are([one, two], FORCED_OPEN) < 1
    late = await those.replica(error_threshold=1)
    assert await all_are([late], FORCED_OPEN) < 1
    two.transition_to_forced_closed()
    await all_are([one, two, late], CircuitBreakerState.FORCED_CLOSED)
    for each in (one, two, late):
        await fail(each)
    await asyncio.sleep(0.1)
    assert one.state is CircuitBreakerState.FORCED_CLOSED


async def test_a_replica_that_starts_late_sees_what_is_open(those: Replicas) -> None:
    one = await those.replica(reset_timeout=60)
    await one.transition_to_open()
    late = await those.replica(reset_timeout=60)
    assert await all_are([late], OPEN) < 1
    with pytest.raises(CircuitBreakerError) as at:
        await succeed(late)
    assert 50 < (at.value.retry_after or 0) <= 60


async def test_state_survives_those_who_close(those: Replicas) -> None:
    backend = await those.backend()
    each = CircuitBreaker(those.name, error_threshold=1, backend=backend)
    await fail(each)
    await backend.__aexit__(None, None, None)  # at once: the trip is reported before
    late = await those.replica(error_threshold=1)
    assert await all_are([late], OPEN) < 1
    await backend.__aenter__()
    assert each.state is OPEN


async def test_a_worker_thread_asks_for_a_permit_too(those: Replicas) -> None:
    one, two = await those.replicas(2, success_threshold=1)
    await listening([one, two])
    await one.transition_to_half_open()
    await all_are([one, two], HALF_OPEN)

    def call(each: CircuitBreaker) -> None:
        with each.from_thread:
            pass

    async with two:
        with pytest.raises(CircuitBreakerError):
            await asyncio.to_thread(call, one)
    await all_are([one, two], CLOSED)
    for _ in range(5):
        with pytest.raises(FaultError):
            await asyncio.to_thread(fail_in_thread, one)
    assert one.state is OPEN
    assert await all_are([one, two], OPEN) < 1


def fail_in_thread(each: CircuitBreaker) -> None:
    with each.from_thread:
        raise FaultError


async def test_replicas_that_hear_nothing_look(
    those: Replicas, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = await those.replicas(2, error_threshold=1)
    await listening([one, two])
    for each in (one, two):
        monkeypatch.setattr(each.backend, "listen", lambda names: False)
        monkeypatch.setattr(fleet_of(each), "heard", lambda name, record: None)
        fleet_of(each).wake()
    await until(lambda: not fleet_of(two)._hears)
    await fail(one)
    assert await all_are([one, two], OPEN) < 2


async def test_successful_calls_ask_nobody(
    those: Replicas, monkeypatch: pytest.MonkeyPatch
) -> None:
    each = await those.replica()
    await listening([each])

    async def never(*_: object) -> None:
        raise AssertionError("asked")

    monkeypatch.setattr(each.backend, "exchange", never)
    for _ in range(100):
        await succeed(each)
    await asyncio.sleep(0.05)
    assert not fleet_of(each).is_away
    assert each.metrics().successes == 100


async def test_while_the_server_is_gone_each_goes_by_itself_and_says_so_once(
    own_fleet: Fleet, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet_module, "_LOOK_AWAY", 0.1)
    those = Replicas(own_fleet)
    one, two = [
        await those.replica(error_threshold=2, reset_timeout=30, success_threshold=1)
        for _ in range(2)
    ]
    await listening([one, two])
    own_fleet.server.kill()
    await fail(one)
    await until(lambda: fleet_of(one).is_away, 10)
    await fail(one)
    assert (one.state, two.state) == (OPEN, CLOSED)
    with pytest.raises(CircuitBreakerError):
        await succeed(one)
    await succeed(two)
    await until(lambda: fleet_of(two).is_away, 10)
    own_fleet.server.restart()
    await until(lambda: two.state is OPEN, 15)
    await until(lambda: not (fleet_of(one).is_away or fleet_of(two).is_away), 15)
    said = [each.message for each in caplog.records if each.name == "grelmicro.resilience"]
    assert sum("go by what this process knows" in each for each in said) == 2  # each once
    assert sum("are shared again" in each for each in said) == 2


async def test_permits_are_granted_here_while_the_server_is_gone(own_fleet: Fleet) -> None:
    those = Replicas(own_fleet)
    each = await those.replica(reset_timeout=0.1, success_threshold=1, error_threshold=1)
    await listening([each])
    own_fleet.server.kill()
    await fail(each)
    await until(lambda: fleet_of(each).is_away, 10)
    await asyncio.sleep(0.15)
    async with each:
        with pytest.raises(CircuitBreakerError):
            await asyncio.create_task(succeed(each))
    assert each.metrics().state is CLOSED
    await fail(each)
    await asyncio.sleep(0.15)
    push = each.transition_to_closed()
    with pytest.raises(Exception, match="not known to other replicas"):
        await push
    own_fleet.server.restart()
    late = await those.replica(reset_timeout=0.1, success_threshold=1, error_threshold=1)
    await until(lambda: not fleet_of(each).is_away and not fleet_of(each)._pushers, 10)
    await late.transition_to_forced_open()
    await all_are([each], FORCED_OPEN)


async def test_a_server_that_stalls_holds_a_probe_up_for_its_timeout_and_nobody_else(
    own_fleet: Fleet,
) -> None:
    those = Replicas(own_fleet)
    settings: dict[str, Any] = {"success_threshold": 1, "error_threshold": 1, "timeout": 0.5}
    each = await those.replica(**settings, reset_timeout=0.1)
    await listening([each])
    await each.transition_to_half_open()
    own_fleet.server.pause()
    try:
        async with asyncio.timeout(4):
            await succeed(each)
            assert each.state is CLOSED
            async with asyncio.timeout(0.4):  # what is closed asks nobody
                await succeed(each)
                await fail(each)
                await asyncio.sleep(0.15)
                await succeed(each)
        assert fleet_of(each).is_away
    finally:
        own_fleet.server.resume()
    await until(lambda: not fleet_of(each).is_away, 10)


async def test_what_the_server_forgot_is_told_anew(those: Replicas) -> None:
    one, two = await those.replicas(2, error_threshold=2, reset_timeout=0.3, success_threshold=1)
    await listening([one, two])
    await one.transition_to_open()
    await all_are([one, two], OPEN)
    await those.fleet.forget_breakers()
    await asyncio.sleep(0.4)
    await until_it_passes(two)
    await all_are([two], CLOSED)
    await fail(one) if one.state is CLOSED else await until_it_passes(one, error=None)
    await all_are([one, two], CLOSED)
    for _ in range(2):
        await fail(one)
    await all_are([one, two], OPEN)
