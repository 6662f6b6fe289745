"""`RateLimiter`: settings, backends, failures, waiting, threads, decorated functions."""

import asyncio
import logging
import math
import os
import pickle
import sys
import threading
from collections.abc import Callable
from time import monotonic
from typing import Any, Self

import pytest

from grelmicro import Grelmicro
from grelmicro.errors import (
    BackendNotOpenError,
    NoActiveAppError,
    OutOfContextError,
    ResilienceError,
    ResilienceSettingsValidationError,
)
from grelmicro.providers.memory import MemoryProvider
from grelmicro.resilience import (
    FixedWindowConfig,
    GCRAConfig,
    RateLimit,
    RateLimiter,
    RateLimitExceededError,
    RateLimitResult,
    SlidingWindowConfig,
    TokenBucketConfig,
    _rate_limiter,
)
from grelmicro.resilience.memory import MemoryRateLimiterAdapter

HOUR = 3600.0


def hourly(limit: int = 2, *, backend: Any = None, fail_open: bool = False) -> RateLimiter:
    return RateLimiter.fixed_window(
        "api", limit=limit, window=HOUR, backend=backend, fail_open=fail_open
    )


async def until(true: Callable[[], object]) -> None:
    deadline = monotonic() + 20
    while not true():
        assert monotonic() < deadline
        await asyncio.sleep(0.001)


@pytest.fixture
def limiter() -> RateLimiter:
    return hourly(backend=MemoryRateLimiterAdapter())


# Settings.

NUMBERS = [0, -1, math.nan, math.inf, -math.inf, "1", None, True]


@pytest.mark.parametrize("value", [*NUMBERS, 1.5, 10**9 + 1])
@pytest.mark.parametrize(
    "make",
    [
        lambda value: RateLimiter.token_bucket("api", capacity=value, refill_rate=1),
        lambda value: RateLimiter.sliding_window("api", limit=value, window=1),
        lambda value: GCRAConfig(limit=value, window=1),
        lambda value: RateLimiter.fixed_window("api", limit=value, window=1),
    ],
)
def test_a_limit_that_cannot_be_used_is_refused(make: Callable[[Any], object], value: Any) -> None:
    with pytest.raises(ResilienceSettingsValidationError, match=r"^(capacity|limit): "):
        make(value)


@pytest.mark.parametrize("value", [*NUMBERS, 1e13, 1e-9])
def test_a_rate_that_cannot_be_used_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match=r"^refill_rate: "):
        RateLimiter.token_bucket("api", capacity=1, refill_rate=value)


@pytest.mark.parametrize("value", [*NUMBERS, 0.000999, 1e9])
@pytest.mark.parametrize("config", [SlidingWindowConfig, FixedWindowConfig, GCRAConfig])
def test_a_window_that_cannot_be_used_is_refused(config: Any, value: Any) -> None:
    with pytest.raises(ValueError, match=r"^window: "):
        config(limit=1, window=value)


@pytest.mark.parametrize("name", ["", None, 7, "x" * 257, "a\0b", "a\nb", "\ud800"])
def test_a_name_that_cannot_be_used_is_refused(name: Any) -> None:
    with pytest.raises(ValueError, match=r"^name: "):
        RateLimiter.token_bucket(name, capacity=1, refill_rate=1)


@pytest.mark.parametrize("config", [None, 5, {"limit": 1, "window": 1}, TokenBucketConfig])
def test_what_is_no_configuration_is_refused(config: Any) -> None:
    with pytest.raises(ValueError, match=r"^config: "):
        RateLimiter("api", config)


def test_fail_open_is_a_flag() -> None:
    no: Any = "no"
    with pytest.raises(ValueError, match=r"^fail_open: "):
        TokenBucketConfig(capacity=1, refill_rate=1, fail_open=no)


@pytest.mark.parametrize("backend", [object(), 7, MemoryRateLimiterAdapter])
def test_what_is_no_backend_is_refused(backend: Any) -> None:
    with pytest.raises(TypeError, match="backend: expected a RateLimiterBackend"):
        hourly(backend=backend)


@pytest.mark.parametrize("method", ["acquire", "acquire_or_raise", "wait", "peek"])
@pytest.mark.parametrize("cost", [0, -1, 3, 1.0, "1", None, True])
async def test_a_cost_out_of_range_is_refused(limiter: RateLimiter, method: str, cost: Any) -> None:
    for _ in range(2):  # also where the key is known
        with pytest.raises(ValueError, match=r"^cost: "):
            await getattr(limiter, method)(key="k", cost=cost)
        await limiter.acquire(key="k")


@pytest.mark.parametrize("method", ["acquire", "acquire_or_raise", "wait", "peek", "reset"])
@pytest.mark.parametrize("key", ["", None, 7, b"k", "x" * 65_537, "\ud800"])
async def test_a_key_that_cannot_be_used_is_refused(
    limiter: RateLimiter, method: str, key: Any
) -> None:
    with pytest.raises(ValueError, match=r"^key: "):
        await getattr(limiter, method)(key=key)


@pytest.mark.parametrize("timeout", [-1, math.nan, "1", True])
async def test_a_timeout_that_cannot_be_used_is_refused(limiter: RateLimiter, timeout: Any) -> None:
    with pytest.raises(ValueError, match=r"^timeout: "):
        await limiter.wait(key="k", timeout=timeout)


async def test_any_text_is_a_key(limiter: RateLimiter) -> None:
    for key in ["{a}", "a:b", "é\0\n", "*", "x" * 65_536, " "]:
        assert [bool(await limiter.acquire(key=key)) for _ in range(3)] == [True, True, False]


# Decisions.


async def test_a_result_is_true_when_allowed(limiter: RateLimiter) -> None:
    first = await limiter.acquire(key="k", cost=2)
    assert first == RateLimitResult(True, 2, 0, 0.0, first.reset_after)
    assert first
    second = await limiter.acquire(key="k")
    assert not second
    assert 0 < second.retry_after == second.reset_after <= first.reset_after <= HOUR


async def test_peek_takes_nothing_and_reset_gives_all(limiter: RateLimiter) -> None:
    for _ in range(5):
        assert await limiter.peek(key="k", cost=2) == (True, 2, 2, 0.0, 0.0)
    await limiter.acquire(key="k", cost=2)
    assert not await limiter.peek(key="k")
    await limiter.reset(key="k")
    assert (await limiter.peek(key="k")).remaining == 2


async def test_who_exceeds_is_told_when_to_come_again(limiter: RateLimiter) -> None:
    assert (await limiter.acquire_or_raise(key="ada@example.org", cost=2)).remaining == 0
    with pytest.raises(RateLimitExceededError, match="try again in") as caught:
        await limiter.acquire_or_raise(key="ada@example.org")
    error = caught.value
    assert isinstance(error, ResilienceError)
    assert (error.key, error.retry_after > 0) == ("ada@example.org", True)
    assert error.result is not None
    assert error.result.limit == 2
    assert "ada" not in str(error)
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.key, copy.retry_after, copy.result) == (error.key, error.retry_after, error.result)
    assert RateLimitExceededError("k", 1.5).retry_after == 1.5


# Backends.


async def test_the_backend_is_the_open_app_s() -> None:
    limiter = hourly(1)
    with pytest.raises(NoActiveAppError):
        await limiter.acquire(key="k")
    for _ in range(2):  # another app is another backend: nothing of a closed one is used
        async with Grelmicro(uses=[MemoryProvider()]) as micro:
            assert limiter.backend is micro.ratelimiter.backend
            assert await limiter.acquire(key="k")
            assert not await limiter.acquire(key="k")
    with pytest.raises(NoActiveAppError):
        await limiter.peek(key="k")


async def test_overriding_is_seen_and_ends() -> None:
    limiter = hourly(1)
    async with Grelmicro(uses=[RateLimit(MemoryRateLimiterAdapter())]) as micro:
        await limiter.acquire(key="k")
        async with micro.override(RateLimit(MemoryRateLimiterAdapter())):
            assert await limiter.acquire(key="k")
        assert not await limiter.acquire(key="k")


async def test_a_component_and_its_name_are_backends() -> None:
    second = RateLimit(MemoryRateLimiterAdapter(), name="second")
    async with Grelmicro(uses=[RateLimit(MemoryRateLimiterAdapter()), second]):
        await hourly(backend=second).acquire(key="k", cost=2)
        assert not await hourly(backend="second").peek(key="k")
        assert await hourly().peek(key="k", cost=2)


ALLOWED = RateLimitResult(True, 2, 1, 0.0, 1.0)


class Strategy:
    """Answers what it is told to; an exception is raised."""

    def __init__(self, backend: "Backend") -> None:
        self.backend = backend

    async def acquire(self, *, key: str, cost: int) -> RateLimitResult:
        self.backend.calls.append((key, cost))
        if isinstance(self.backend.answer, Exception):
            raise self.backend.answer
        answer: RateLimitResult = self.backend.answer
        return answer

    async def peek(self, *, key: str, cost: int) -> RateLimitResult:
        return await self.acquire(key=key, cost=cost)

    async def reset(self, *, key: str) -> None:
        await self.acquire(key=key, cost=0)


class Backend:
    """A backend of somebody else's."""

    _loop: asyncio.AbstractEventLoop | None = None

    def __init__(self, answer: Any = ALLOWED) -> None:
        self.answer = answer
        self.calls: list[tuple[str, int]] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None: ...

    def bind(self, config: object) -> Strategy:
        return Strategy(self)


async def test_a_backend_of_somebody_else_s_will_do() -> None:
    backend = Backend()
    async with Grelmicro(uses=[backend]):
        assert await hourly().acquire(key="k", cost=2) == backend.answer
    assert backend.calls == [("api:k", 2)]


async def test_a_backend_that_is_patched_is_honoured() -> None:
    patched: Any = MemoryRateLimiterAdapter()
    limiter, other = hourly(backend=patched), Backend()
    await limiter.acquire(key="k")
    patched.bind = other.bind
    await limiter.acquire(key="k")
    await limiter.acquire(key="k")
    assert len(other.calls) == 2
    del patched.bind
    assert (await limiter.acquire(key="k")).remaining == 0
    assert len(other.calls) == 2


async def test_a_wrapper_around_a_backend_is_honoured() -> None:
    class Wrapper:
        def __init__(self, inner: object) -> None:
            self.inner = inner

        def __getattr__(self, name: str) -> Any:
            return getattr(self.inner, name)

    class Slotted(MemoryRateLimiterAdapter):
        __slots__ = ()

    for backend in (Wrapper(MemoryRateLimiterAdapter()), Slotted()):
        limiter = hourly(backend=backend)
        assert [bool(await limiter.acquire(key="k")) for _ in range(3)] == [True, True, False]


async def test_a_strategy_that_changes_acquire_is_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = MemoryRateLimiterAdapter()
    config = FixedWindowConfig(limit=2, window=HOUR)
    other = Strategy(Backend())
    monkeypatch.setattr(adapter.bind(config), "acquire", other.acquire)
    limiter = RateLimiter("api", config, backend=adapter)
    await limiter.acquire(key="k")
    await limiter.acquire(key="k")
    assert len(other.backend.calls) == 2


# A backend that fails.


async def test_a_failure_is_one_error_with_its_cause() -> None:
    limiter = hourly(backend=Backend(OSError("gone")))
    for call in (limiter.acquire, limiter.acquire_or_raise, limiter.wait, limiter.peek):
        with pytest.raises(ResilienceError, match="'api' could not decide: OSError") as caught:
            await call(key="k")
        assert isinstance(caught.value.__cause__, OSError)
    with pytest.raises(ResilienceError, match="'api' could not reset"):
        await limiter.reset(key="k")


async def test_fail_open_lets_through_and_says_so_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_rate_limiter, "_SILENCE", 0.0)
    backend = Backend(OSError("gone"))
    limiter = hourly(backend=backend, fail_open=True)
    caplog.set_level(logging.INFO, "grelmicro.resilience")
    for _ in range(2):
        backend.answer = OSError("gone")
        for _ in range(3):
            assert await limiter.acquire(key="k") == (True, 2, 0, 0.0, 0.0)
            assert (await limiter.peek(key="k")).allowed
            assert await limiter.wait(key="k")
        backend.answer = RateLimitResult(False, 2, 0, 1.0, 1.0)
        assert not await limiter.acquire(key="k")
    messages = [record.getMessage() for record in caplog.records]
    assert ["lets everything through" in message for message in messages] == [True, False] * 2
    assert ["limits again" in message for message in messages] == [False, True] * 2


async def test_fail_open_does_not_fill_the_log_while_one_of_two_servers_is_away(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Calls fail and succeed in turns, thousands of times a second."""
    backend = Backend()
    limiter = hourly(backend=backend, fail_open=True)
    caplog.set_level(logging.INFO, "grelmicro.resilience")
    for _ in range(50):
        for backend.answer in (OSError("gone"), ALLOWED):
            assert await limiter.acquire(key="k")
    assert len(caplog.records) == 2


async def test_fail_open_hides_no_mistake() -> None:
    limiter = hourly(backend=Backend(OutOfContextError("not open")), fail_open=True)
    with pytest.raises(OutOfContextError):
        await limiter.acquire(key="k")
    with pytest.raises(NoActiveAppError):
        await hourly(fail_open=True).acquire(key="k")
    with pytest.raises(ResilienceError):
        await hourly(backend=Backend(OSError()), fail_open=True).reset(key="k")


# Waiting.


def quick(backend: Any = None) -> RateLimiter:
    backend = backend or MemoryRateLimiterAdapter()
    return RateLimiter.token_bucket("api", capacity=1, refill_rate=50, backend=backend)


async def test_waiting_lasts_until_the_permit_is_there() -> None:
    limiter = quick()
    started = monotonic()
    for _ in range(4):
        assert await limiter.wait(key="k", timeout=60)
    assert monotonic() - started >= 0.059  # three permits at 50 a second
    assert limiter._queues == {}


async def test_who_waits_is_served_in_the_order_of_arrival() -> None:
    limiter, order = quick(), []

    async def work(number: int) -> None:
        await limiter.wait(key="k")
        order.append(number)

    await asyncio.gather(*(work(number) for number in range(8)))
    assert order == [*range(8)]


async def test_of_those_who_wait_only_the_first_asks() -> None:
    backend = Backend(RateLimitResult(False, 2, 0, 0.02, 0.02))
    limiter = hourly(backend=backend)
    waiting = [asyncio.create_task(limiter.wait(key="k")) for _ in range(50)]
    await until(lambda: len(backend.calls) > 1)
    assert len(backend.calls) < 10
    backend.answer = RateLimitResult(True, 2, 1, 0.0, 1.0)
    await asyncio.gather(*waiting)


async def test_what_cannot_be_in_time_is_told_at_once(limiter: RateLimiter) -> None:
    await limiter.acquire(key="k", cost=2)
    with pytest.raises(RateLimitExceededError) as caught:
        await limiter.wait(key="k", timeout=HOUR / 2)
    assert caught.value.retry_after > HOUR / 2
    assert limiter._queues == {}


async def test_who_is_not_first_gives_up_in_time(limiter: RateLimiter) -> None:
    await limiter.acquire(key="k", cost=2)
    first = asyncio.create_task(limiter.wait(key="k"))
    await asyncio.sleep(0)
    with pytest.raises(RateLimitExceededError) as caught:
        await limiter.wait(key="k", timeout=0.02)
    assert HOUR / 2 < caught.value.retry_after < HOUR
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert limiter._queues == {}


async def test_one_who_is_cancelled_makes_room_for_the_next() -> None:
    backend = Backend(RateLimitResult(False, 2, 0, HOUR, HOUR))
    limiter = hourly(backend=backend)
    first, second = (asyncio.create_task(limiter.wait(key="k")) for _ in range(2))
    await until(lambda: backend.calls)
    backend.answer = RateLimitResult(True, 2, 1, 0.0, 1.0)
    first.cancel()
    assert await asyncio.wait_for(second, 20)
    assert limiter._queues == {}


async def test_other_keys_do_not_wait(limiter: RateLimiter) -> None:
    await limiter.acquire(key="k", cost=2)
    waiting = asyncio.create_task(limiter.wait(key="k"))
    await asyncio.sleep(0)
    assert await limiter.wait(key="other")
    waiting.cancel()


# Threads.


async def test_threads_have_every_method() -> None:
    async with Grelmicro(uses=[MemoryProvider()]):
        limiter = hourly()

        def work() -> list[bool]:
            thread = limiter.from_thread
            found = [thread.acquire(key="k"), thread.peek(key="k"), thread.wait(key="k", timeout=9)]
            with pytest.raises(RateLimitExceededError):
                thread.acquire_or_raise(key="k")
            thread.reset(key="k")
            return [*map(bool, found), bool(thread.acquire(key="k", cost=2))]

        assert await asyncio.to_thread(work) == [True] * 4


async def test_threads_need_an_open_backend_and_a_thread() -> None:
    adapter = MemoryRateLimiterAdapter()
    limiter = hourly(backend=adapter)
    with pytest.raises(BackendNotOpenError):
        await asyncio.to_thread(limiter.from_thread.acquire, key="k")
    async with adapter:
        with pytest.raises(RuntimeError, match="would block the event loop"):
            limiter.from_thread.acquire(key="k")
        async with adapter:
            pass
        assert await asyncio.to_thread(limiter.from_thread.acquire, key="k")
    with pytest.raises(AttributeError):
        await asyncio.to_thread(limiter.from_thread.acquire, key="k")


FORKS = """
import asyncio, os, signal, sys
from grelmicro.errors import BackendNotOpenError
from grelmicro.resilience import RateLimiter
from grelmicro.resilience.memory import MemoryRateLimiterAdapter

def work(limiter):
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    signal.alarm(10)  # ends it where it waits
    try:
        limiter.from_thread.acquire(key="k")
    except BackendNotOpenError:
        os._exit(0)
    os._exit(2)

async def main():
    async with MemoryRateLimiterAdapter() as backend:
        limiter = RateLimiter.fixed_window("api", limit=9, window=60, backend=backend)
        return await asyncio.to_thread(work, limiter)

sys.exit(asyncio.run(main()))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nobody forks here")
async def test_a_thread_of_a_forked_child_is_told_that_nothing_is_open() -> None:
    """The loop that it would wait for runs in the parent."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKS)
    )
    assert await process.wait() == 0


# Decorated functions.


async def test_a_decorated_function_is_refused_on_the_loop_s_thread_and_takes_nothing() -> None:
    """It would wait for the loop that it stops."""
    async with Grelmicro(uses=[MemoryProvider()]):
        limiter, calls = hourly(1), list[int]()
        work = limiter(calls.append)
        with pytest.raises(RuntimeError, match="would block the event loop"):
            work(1)
        assert calls == []
        await asyncio.to_thread(work, 2)
        assert calls == [2]


async def test_a_decorated_coroutine_is_limited(limiter: RateLimiter) -> None:
    @limiter
    async def work(number: int) -> int:
        """Work."""
        return number

    assert [await work(1), await work(number=2)] == [1, 2]
    assert (work.__name__, work.__doc__) == ("work", "Work.")
    with pytest.raises(RateLimitExceededError):
        await work(3)


async def test_a_decorated_function_is_limited_in_threads() -> None:
    async with Grelmicro(uses=[MemoryProvider()]):
        idents: list[int] = []

        @hourly(1)(key="{user}")
        def work(user: str) -> None:
            idents.append(threading.get_ident())

        await asyncio.to_thread(work, "ada")
        await asyncio.to_thread(work, "bob")
        with pytest.raises(RateLimitExceededError):
            await asyncio.to_thread(work, "ada")
        assert threading.get_ident() not in idents  # the body stays in its own thread
        assert len(idents) == 2


async def test_keys_come_from_templates_or_functions(limiter: RateLimiter) -> None:
    class Service:
        @limiter(key="user:{user[id]}:{kind}")
        async def by_template(self, user: dict[str, int], kind: str = "read") -> None: ...

        @limiter(key=lambda self, user: f"user:{user}:read", cost=2)
        async def by_function(self, user: int) -> None: ...

    service = Service()
    await service.by_template({"id": 7})
    assert (await limiter.peek(key="user:7:read")).remaining == 1
    await service.by_function(8)
    assert (await limiter.peek(key="user:8:read")).remaining == 0
    with pytest.raises(RateLimitExceededError):
        await service.by_function(7)


async def test_a_text_that_looks_like_an_address_is_a_key(limiter: RateLimiter) -> None:
    """Users write what they like."""

    @limiter(key="{name}")
    async def work(name: str) -> None: ...

    await work("ada at 0x1f")
    assert (await limiter.peek(key="ada at 0x1f")).remaining == 1


async def test_a_template_that_cannot_be_used_is_refused(limiter: RateLimiter) -> None:
    async def work(user: object) -> None: ...

    number: Any = 7
    for template in ("{nobody}", "{", "{0}", "{}"):
        with pytest.raises(ValueError, match=r"^key="):
            limiter(key=template)(work)
    with pytest.raises(ValueError, match=r"^key: "):
        limiter(key=number)(work)
    with pytest.raises(ValueError, match=r"^cost: "):
        limiter(key="{user}", cost=3)
    with pytest.raises(TypeError, match="address"):
        await limiter(key="{user}")(work)(object())
    with pytest.raises(TypeError, match="cannot be filled"):
        await limiter(key="{user.id}")(work)("ada")


def test_only_functions_are_decorated(limiter: RateLimiter) -> None:
    def generator() -> Any:
        yield

    async def async_generator() -> Any:
        yield

    targets: tuple[Any, ...] = (generator, async_generator, int, staticmethod(print), 7)
    for target in targets:
        with pytest.raises(TypeError, match="limiter: "):
            limiter(target)
