"""What every circuit breaker backend promises: what opens, what passes, what says nothing."""

import asyncio
from contextlib import suppress
from typing import Any

from grelmicro.resilience import CircuitBreaker, CircuitBreakerBackend, CircuitBreakerError
from grelmicro.resilience import CircuitBreakerState as State
from grelmicro.testing.conformance._kit import clause, promise, same

__all__ = ["FaultError", "begun", "breaker", "crowd", "end", "fails", "passes"]


class FaultError(Exception):
    """What the kit's calls fail with."""


def breaker(backend: CircuitBreakerBackend, name: str = "b", **settings: Any) -> CircuitBreaker:
    """A breaker that opens for long, after three errors, and closes after one success."""
    usual: dict[str, Any] = {"error_threshold": 3, "success_threshold": 1, "reset_timeout": 3600}
    return CircuitBreaker(name, **usual | settings, backend=backend)


async def passes(each: CircuitBreaker) -> bool:
    """Whether a call is let through, which goes well."""
    try:
        async with each:
            return True
    except CircuitBreakerError:
        return False


async def fails(each: CircuitBreaker, error: type[Exception] = FaultError) -> None:
    """Call what fails."""
    with suppress(error, CircuitBreakerError):
        async with each:
            raise error


@clause("circuitbreaker.errors.open")
async def errors_open(backend: CircuitBreakerBackend) -> None:
    """So many errors in a row open a breaker, and it says for how long.

    What fails is not to be asked for more. Count in the circuit that you return, and return the
    same one each time. Other names are other circuits.
    """
    each, other = breaker(backend), breaker(backend, "other")
    for _ in range(2):
        await fails(each)
    same(each.state, State.CLOSED, "after two errors of three")
    await fails(breaker(backend))
    same(each.state, State.OPEN, "after the third error, by another breaker of that name")
    same(await passes(each), False, "let through while it is open")
    same(await passes(other), True, "let through by a breaker of another name")
    try:
        await each.__aenter__()
    except CircuitBreakerError as error:
        left = error.retry_after
        promise(left is not None and 3000 < left <= 3600, f"open for 3600 s: told {left} s")


@clause("circuitbreaker.errors.in_a_row")
async def errors_in_a_row(backend: CircuitBreakerBackend) -> None:
    """A success ends a row of errors.

    A breaker that adds up all errors opens by itself after some days. Set the count to zero when a
    call goes well.
    """
    each = breaker(backend)
    for _ in range(4):
        await fails(each)
        await fails(each)
        same(await passes(each), True, "let through after two errors of three")
    same(each.state, State.CLOSED, "errors that were not in a row")


@clause("circuitbreaker.rates.open")
async def rates_open(backend: CircuitBreakerBackend) -> None:
    """A share of failures opens a breaker once there are enough calls, and not before.

    One failure of one call is no outage. Wait for `minimum_calls`, then compare the failures' share
    of the calls in the window.
    """
    each = breaker(backend, error_threshold=None, failure_rate=0.5, window=8, minimum_calls=4)
    for _ in range(3):
        await fails(each)
    same(each.state, State.CLOSED, "three failures of the four calls that a rate needs")
    await passes(each)
    same(each.state, State.OPEN, "three failures of four calls, of which half are too many")


@clause("circuitbreaker.half_open.exact")
async def half_open_exact(backend: CircuitBreakerBackend) -> None:
    """Half-open, exactly as many calls run at a time as there are permits, of any number.

    What has just recovered breaks down again under all who waited. Take a permit before the call is
    let through, in one step, and give it back when it ends, also when more successes are needed.
    """
    for permits in (1, 3):
        each = breaker(backend, str(permits), half_open_capacity=permits, success_threshold=9)
        await each.transition_to_half_open()
        for _ in range(2):
            ran, refused = await crowd(each)
            same((ran, refused), (permits, 50 - permits), "who ran, and was refused, of 50 calls")
        same(each.state, State.HALF_OPEN, "before there were nine successes")


async def crowd(*breakers: CircuitBreaker) -> tuple[int, int]:
    """How many of 50 calls of breakers run at a time, and how many are refused."""
    go, known = asyncio.Event(), asyncio.Semaphore(0)
    ran = 0

    async def call(each: CircuitBreaker) -> None:
        nonlocal ran
        try:
            async with each:
                ran += 1
                known.release()
                await go.wait()
        except CircuitBreakerError:
            known.release()

    calls = [asyncio.create_task(call(breakers[n % len(breakers)])) for n in range(50)]
    for _ in calls:
        await known.acquire()
    found = ran, 50 - ran
    go.set()
    await asyncio.gather(*calls)
    return found


@clause("circuitbreaker.half_open.decides")
async def half_open_decides(backend: CircuitBreakerBackend) -> None:
    """Half-open, enough successes close a breaker, and one failure opens it.

    That is how it finds out. Count successes from when it became half-open.
    """
    each = breaker(backend, success_threshold=2)
    await each.transition_to_half_open()
    same(await passes(each), True, "let through half-open")
    await fails(each)
    same(each.state, State.OPEN, "after a failure while half-open")
    await each.transition_to_half_open()
    await passes(each)
    same(each.state, State.HALF_OPEN, "after one success of two")
    await passes(each)
    same(each.state, State.CLOSED, "after two successes")


@clause("circuitbreaker.half_open.comes", slow=True)
async def half_open_comes(backend: CircuitBreakerBackend) -> None:
    """After its time, an open breaker lets a call through.

    Otherwise an outage of a minute never ends. Compare the time when a call comes. Go by a clock
    that nobody sets.
    """
    each = breaker(backend, reset_timeout=0.2)
    for _ in range(3):
        await fails(each)
    same(await passes(each), False, "let through at once")
    for _ in range(100):
        if await passes(each):
            break
        await asyncio.sleep(0.05)
    same(each.state, State.CLOSED, "after a success")


@clause("circuitbreaker.cancel.is_nothing")
async def cancel_is_nothing(backend: CircuitBreakerBackend) -> None:
    """A call that is cancelled says nothing, and gives its permit back.

    Clients that leave are no outage, and a permit that is lost keeps the breaker half-open for
    ever. Catch BaseException where permits are given back. Count only what is an Exception.
    """
    each = breaker(backend)
    for state in (State.CLOSED, State.HALF_OPEN):
        for _ in range(5):
            _, call = await begun(each)
            call.cancel()
            await asyncio.wait([call])
        same(each.state, state, "after five calls that were cancelled")
        await each.transition_to_half_open()
    same(await passes(each), True, "let through half-open after calls that were cancelled")


@clause("circuitbreaker.ignored.is_nothing")
async def ignored_is_nothing(backend: CircuitBreakerBackend) -> None:
    """An ignored exception is counted, and is neither a failure nor a success.

    Bad input says nothing about what is asked. It must not open a breaker, end a row of errors, or
    close one that is half-open.
    """
    each = breaker(backend, ignore_exceptions=LookupError)
    for error in (FaultError, FaultError, *[KeyError] * 5):
        await fails(each, error)
    same(each.state, State.CLOSED, "after two errors of three, and ignored ones")
    await fails(each)
    same(each.state, State.OPEN, "after three errors with ignored ones in between")
    await each.transition_to_half_open()
    for _ in range(3):
        await fails(each, KeyError)
        same(each.state, State.HALF_OPEN, "after an ignored exception while half-open")
    same(each.metrics().ignored, 8, "ignored exceptions in the metrics")


@clause("circuitbreaker.late.changes_nothing")
async def late_changes_nothing(backend: CircuitBreakerBackend) -> None:
    """A call that began while it was closed changes nothing when it ends in another state.

    What was asked before the outage says nothing about now. Remember with each call the period that
    it began in.
    """
    for error in (None, FaultError):
        each = breaker(backend, f"late {error}")
        calls = [await begun(each) for _ in range(2)]
        await each.transition_to_open()
        await end(*calls[0], error)
        same(each.state, State.OPEN, "after the end of an earlier call")
        await each.transition_to_half_open()
        await end(*calls[1], error)
        same(each.state, State.HALF_OPEN, "after the end of an earlier call")


async def begun(each: CircuitBreaker) -> "tuple[asyncio.Future[None], asyncio.Task[None]]":
    """A call that runs until its future is done.

    Raises:
        CircuitBreakerError: It was not let through.
    """
    ending: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    runs = asyncio.Event()

    async def call() -> None:
        async with each:
            runs.set()
            await ending

    task = asyncio.create_task(call())
    waiting = asyncio.create_task(runs.wait())
    await asyncio.wait([task, waiting], return_when="FIRST_COMPLETED")
    waiting.cancel()
    if task.done():
        await task
    return ending, task


async def end(
    ending: "asyncio.Future[None]", task: "asyncio.Task[None]", error: type[Exception] | None
) -> None:
    """End a call that was begun, well or with an error."""
    if error is None:
        ending.set_result(None)
    else:
        ending.set_exception(error())
    await asyncio.wait([task])
    task.exception()


@clause("circuitbreaker.forced.stays")
async def forced_stays(backend: CircuitBreakerBackend) -> None:
    """A forced state is left only by hand.

    Somebody had a reason. Neither time nor calls end it.
    """
    each = breaker(backend, reset_timeout=0.01)
    await each.transition_to_forced_open()
    await asyncio.sleep(0.1)
    same(await passes(each), False, "let through while it is forced open")
    same(each.state, State.FORCED_OPEN, "after a call")
    await each.transition_to_forced_closed()
    for _ in range(5):
        await fails(each)
    same(await passes(each), True, "let through while it is forced closed")
    same(each.state, State.FORCED_CLOSED, "after failures")
    await each.restart()
    same(each.state, State.CLOSED, "after a restart")


@clause("circuitbreaker.threads.run")
async def threads_run(backend: CircuitBreakerBackend) -> None:
    """Worker threads use an open backend by `from_thread`, and half-open permits count for them.

    Synchronous handlers run in threads. Note the loop on entering. Guard what threads change at the
    same time.
    """
    same(backend._loop, asyncio.get_running_loop(), "the loop that is noted")
    each = breaker(backend, error_threshold=40)

    def fail() -> None:
        for _ in range(10):
            with suppress(FaultError, CircuitBreakerError), each.from_thread:
                raise FaultError

    await asyncio.gather(*(asyncio.to_thread(fail) for _ in range(4)))
    same(each.state, State.OPEN, "after 40 errors of 40, in four threads")
    await each.transition_to_half_open()
    async with each:
        same(await asyncio.to_thread(_passes_here, each), False, "a thread without a permit")
    same(await asyncio.to_thread(_passes_here, each), True, "a thread when it is closed")


def _passes_here(each: CircuitBreaker) -> bool:
    try:
        with each.from_thread:
            return True
    except CircuitBreakerError:
        return False


@clause("circuitbreaker.listeners.hear")
async def listeners_hear(backend: CircuitBreakerBackend) -> None:
    """Listeners hear of each change of state, once and in order.

    Alarms hang on them. Tell those that `Circuit.listen` was given, after the change.
    """
    heard: list[tuple[str, str]] = []
    each = breaker(backend)
    each.add_listener(lambda event: heard.append((event.before, event.after)))
    for _ in range(4):
        await fails(each)
    await each.transition_to_half_open()
    await passes(each)
    told = [f"{before} {after}" for before, after in heard]
    same(told, ["CLOSED OPEN", "OPEN HALF_OPEN", "HALF_OPEN CLOSED"], "what listeners heard")
