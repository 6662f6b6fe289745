"""Circuit breakers for worker threads."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from grelmicro import Grelmicro
from grelmicro.errors import BackendNotOpenError
from grelmicro.resilience import Breaker, CircuitBreaker, CircuitBreakerError, CircuitBreakerState
from grelmicro.resilience.memory import MemoryCircuitBreakerAdapter


class FaultError(Exception):
    """What fails."""


def run(each: CircuitBreaker, error: type[Exception] | None = None) -> None:
    with each.from_thread:
        if error is not None:
            raise error


async def test_a_worker_thread_uses_the_open_app() -> None:
    each = CircuitBreaker("payment", error_threshold=2)
    async with Grelmicro(uses=[Breaker(MemoryCircuitBreakerAdapter())]):
        await asyncio.to_thread(run, each)
        for _ in range(2):
            with pytest.raises(FaultError):
                await asyncio.to_thread(run, each, FaultError)
        with pytest.raises(CircuitBreakerError):
            await asyncio.to_thread(run, each)
        with pytest.raises(CircuitBreakerError):
            async with each:
                pass


async def test_a_thread_that_was_there_before_uses_the_app_that_is_open_elsewhere() -> None:
    each = CircuitBreaker("payment", error_threshold=1)

    @each
    def charge(amount: int) -> int:
        return 1 // amount

    outcomes: list[object] = []

    def work() -> None:
        for amount in (1, 0, 1):
            try:
                outcomes.append(charge(amount))
            except Exception as error:
                outcomes.append(type(error))

    async with Grelmicro(uses=[MemoryCircuitBreakerAdapter()]):
        thread = threading.Thread(target=work)
        thread.start()
        await asyncio.to_thread(thread.join)
    assert outcomes == [1, ZeroDivisionError, CircuitBreakerError]


async def test_the_backend_has_to_be_open() -> None:
    each = CircuitBreaker("b", backend=MemoryCircuitBreakerAdapter())
    with pytest.raises(AttributeError) as at:
        await asyncio.to_thread(run, each)
    assert isinstance(at.value, BackendNotOpenError)
    async with Grelmicro(uses=[Breaker(MemoryCircuitBreakerAdapter())]) as micro:
        backend = micro.circuitbreaker.backend
    with pytest.raises(BackendNotOpenError):
        await asyncio.to_thread(run, CircuitBreaker("b", backend=backend))


async def test_the_loops_own_thread_is_no_worker_thread() -> None:
    async with MemoryCircuitBreakerAdapter() as backend:
        each = CircuitBreaker("b", backend=backend)
        with pytest.raises(RuntimeError, match="async with"):
            run(each)
        decorated = each(run)
        with pytest.raises(RuntimeError, match="async with"):
            decorated(each)


async def test_ten_threads_run_at_the_same_time() -> None:
    async with MemoryCircuitBreakerAdapter() as backend:
        each = CircuitBreaker("b", backend=backend)
        shared, together = each.from_thread, threading.Barrier(10)

        def call(shares: bool) -> None:
            with shared if shares else each.from_thread:
                together.wait(10)

        with ThreadPoolExecutor(10) as pool:
            run_there = asyncio.get_running_loop().run_in_executor
            for shares in (False, True):
                await asyncio.gather(*(run_there(pool, call, shares) for _ in range(10)))
        assert each.metrics().successes == 20


async def test_half_open_runs_one_body_of_ten_threads() -> None:
    async with MemoryCircuitBreakerAdapter() as backend:
        each = CircuitBreaker("b", success_threshold=1, backend=backend)
        each.transition_to_half_open()
        inside, go = threading.Semaphore(0), threading.Event()

        def call() -> None:
            with each.from_thread, each.from_thread:  # the inner one is within the outer one
                inside.release()
                assert go.wait(10)

        first = asyncio.create_task(asyncio.to_thread(call))
        await asyncio.to_thread(inside.acquire)
        others = (asyncio.to_thread(call) for _ in range(9))
        refused = await asyncio.gather(*others, return_exceptions=True)
        assert [type(each) for each in refused] == [CircuitBreakerError] * 9
        go.set()
        await first
        assert each.state is CircuitBreakerState.CLOSED


async def test_a_block_may_end_in_another_thread_than_it_began_in() -> None:
    async with MemoryCircuitBreakerAdapter() as backend:
        each = CircuitBreaker("b", success_threshold=1, backend=backend)
        each.transition_to_half_open()
        block = each.from_thread
        await asyncio.to_thread(block.__enter__)
        assert each.state is CircuitBreakerState.HALF_OPEN
        await asyncio.to_thread(block.__exit__, None, None, None)
        assert each.metrics().state is CircuitBreakerState.CLOSED


async def test_failures_of_many_threads_are_all_counted() -> None:
    async with MemoryCircuitBreakerAdapter() as backend:
        each = CircuitBreaker("b", error_threshold=10_000, backend=backend)

        def fail() -> None:
            for _ in range(200):
                with pytest.raises(FaultError):
                    run(each, FaultError)

        await asyncio.gather(*(asyncio.to_thread(fail) for _ in range(8)))
        assert each.metrics().failures == each.metrics().errors_in_a_row == 1600
