"""Rate limiters that are broken on purpose: each breaks what it is registered for, no other."""

import asyncio
import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from time import monotonic
from typing import Any, ClassVar, Self

import pytest

from grelmicro.providers import Provider
from grelmicro.resilience import (
    FixedWindowConfig,
    RateLimitConfig,
    RateLimitResult,
    SlidingWindowConfig,
    TokenBucketConfig,
)
from grelmicro.testing.conformance import BrokenPromiseError, Clause, Subject, clauses

CLAUSES = [
    each
    for each in clauses("ratelimiter")
    if each.id.split(".")[1] not in ("fault", "processes", "model")
]
"""What needs a network or processes has a gallery of its own."""

Found = Callable[[Subject, Iterable[Clause]], set[str]]
State = tuple[float, float]
"""Of a bucket: permits that are out, and when that was so; of a window: taken, and its end."""


class Limits:
    """An honest backend that waits at every step, as one on a network does."""

    _loop: asyncio.AbstractEventLoop | None = None
    strategy: ClassVar[type["Strategy"]]

    def __init__(self) -> None:
        self.states: dict[object, State] = {}

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._loop = None

    def bind(self, config: RateLimitConfig) -> "Strategy":
        return self.strategy(self, config)


class Strategy:
    def __init__(self, limits: Limits, config: RateLimitConfig) -> None:
        self.limits = limits
        self.config = config
        self.limit = config.limit

    def place(self, key: str) -> object:
        return replace(self.config, fail_open=False), key

    @property
    def rate(self) -> float:
        """Permits a second that come back; 0 of a fixed window, whose come back together."""
        match self.config:
            case TokenBucketConfig(refill_rate=rate):
                return rate
            case SlidingWindowConfig(limit=limit, window=window):
                return limit / window
        return 0.0

    def read(self, key: str) -> State:
        taken, at = self.limits.states.get(self.place(key), (0.0, 0.0))
        if self.rate:
            now = monotonic()
            return max(0.0, taken - (now - at) * self.rate), now
        assert isinstance(self.config, FixedWindowConfig)
        return (taken, at) if at > monotonic() else (0.0, monotonic() + self.config.window)

    def write(self, key: str, state: State) -> None:
        self.limits.states[self.place(key)] = state

    def allows(self, taken: float, cost: int) -> bool:
        return taken + cost <= self.limit + 1e-6

    async def acquire(self, *, key: str, cost: int) -> Any:
        await asyncio.sleep(0)
        taken, at = self.read(key)
        allowed = self.allows(taken, cost)
        if allowed:
            taken += cost
            self.write(key, (taken, at))
        return self.answer(allowed, taken, at, cost)

    async def peek(self, *, key: str, cost: int) -> Any:
        await asyncio.sleep(0)
        taken, at = self.read(key)
        return self.answer(self.allows(taken, cost), taken, at, cost)

    async def reset(self, *, key: str) -> Any:
        await asyncio.sleep(0)
        self.limits.states.pop(self.place(key), None)

    def answer(self, allowed: bool, taken: float, at: float, cost: int) -> Any:
        left = max(0, math.floor(self.limit - taken + 1e-6))
        if self.rate:
            reset, retry = taken / self.rate, (taken + cost - self.limit) / self.rate
        else:
            reset = retry = max(0.0, at - monotonic())
        return RateLimitResult(allowed, self.limit, left, 0.0 if allowed else retry, reset)


Limits.strategy = Strategy
GALLERY: dict[type[Strategy], set[str]] = {}


def breaks(*found_by: str) -> Callable[[type[Strategy]], type[Strategy]]:
    """Register a broken one for the clauses that find it."""

    def register(strategy: type[Strategy]) -> type[Strategy]:
        GALLERY[strategy] = {f"ratelimiter.{each}" for each in found_by}
        return strategy

    return register


def subject(strategy: type[Strategy], backend: type[Limits] = Limits) -> Subject:
    class LimitsProvider(Provider):
        short_name = "limits"

        def ratelimiter(self, **_: Any) -> Any:
            made = backend()
            made.__class__ = type(backend.__name__, (backend,), {"strategy": strategy})
            return made

    return Subject(strategy.__name__, LimitsProvider)


@breaks(
    *("acquire.limits", "acquire.one_for_each_permit", "acquire.costs", "acquire.comes_back"),
    *("peek.takes_nothing", "reset.gives_all", "keys.apart", "bind.shares"),
    *("window.ends", "numbers.extreme"),
)
class LetsOneMoreThrough(Strategy):
    def allows(self, taken: float, cost: int) -> bool:
        return super().allows(taken - 1, cost)


@breaks("acquire.one_for_each_permit", "acquire.never_over", "cancel.in_step")
class ChecksAndThenTakes(Strategy):
    async def acquire(self, *, key: str, cost: int) -> Any:
        taken, at = self.read(key)
        await asyncio.sleep(0)
        allowed = self.allows(taken, cost)
        if allowed:
            taken += cost
            self.write(key, (taken, at))
        return self.answer(allowed, taken, at, cost)


@breaks("acquire.costs", "acquire.comes_back", "acquire.never_over")
class TakesAPart(Strategy):
    async def acquire(self, *, key: str, cost: int) -> Any:
        found = await super().acquire(key=key, cost=cost)
        if not found.allowed:
            self.write(key, (float(self.limit), self.read(key)[1]))
            return found._replace(remaining=0) if cost > 1 else found
        return found


@breaks("acquire.comes_back")
class SaysTooSoon(Strategy):
    def answer(self, allowed: bool, taken: float, at: float, cost: int) -> Any:
        found = super().answer(allowed, taken, at, cost)
        return found._replace(retry_after=found.retry_after / 3)


@breaks("acquire.never_over")
class GivesBackTwiceAsFast(Strategy):
    @property
    def rate(self) -> float:
        return super().rate * 2


@breaks(
    *("acquire.limits", "acquire.one_for_each_permit", "acquire.costs", "peek.takes_nothing"),
    *("numbers.extreme", "cancel.in_step"),
)
class TellsWhatWasLeftBefore(Strategy):
    def answer(self, allowed: bool, taken: float, at: float, cost: int) -> Any:
        found = super().answer(allowed, taken, at, cost)
        return found._replace(remaining=min(self.limit, found.remaining + 1))


@breaks("acquire.limits", "acquire.costs", "acquire.remains", "peek.takes_nothing")
class ConsolesTheRefused(Strategy):
    def answer(self, allowed: bool, taken: float, at: float, cost: int) -> Any:
        found = super().answer(allowed, taken, at, cost)
        return found if allowed else found._replace(remaining=found.remaining + 1)


@breaks("peek.takes_nothing")
class LooksByTaking(Strategy):
    async def peek(self, *, key: str, cost: int) -> Any:
        return await self.acquire(key=key, cost=cost)


@breaks("reset.gives_all")
class ForgetsToForget(Strategy):
    async def reset(self, *, key: str) -> Any:
        await asyncio.sleep(0)


@breaks("reset.gives_all")
class ForgetsAll(Strategy):
    async def reset(self, *, key: str) -> Any:
        self.limits.states.clear()


@breaks("keys.apart")
class FoldsKeys(Strategy):
    def place(self, key: str) -> object:
        return super().place(key.strip().casefold()[:1000])


@breaks("bind.shares")
class TellsThemApartByTheObject(Strategy):
    def place(self, key: str) -> object:
        return self.config, key


@breaks("bind.shares", "numbers.extreme")
class OneQuotaForAllSettings(Strategy):
    def place(self, key: str) -> object:
        return type(self.config), key


@breaks("window.ends")
class ProlongsTheWindow(Strategy):
    def write(self, key: str, state: State) -> None:
        if isinstance(self.config, FixedWindowConfig):
            state = state[0], monotonic() + self.config.window
        super().write(key, state)


@breaks("numbers.extreme")
class CountsInFewDigits(Strategy):
    def allows(self, taken: float, cost: int) -> bool:
        return super().allows(taken, cost) and cost < 2**24


@breaks(
    "call.by_keyword", *(each.id.partition(".")[2] for each in CLAUSES if "open" not in each.id)
)
class OtherNames(Strategy):
    async def asked_by_name(self, *, name: str, cost: int) -> Any:
        return await super().acquire(key=name, cost=cost)

    acquire: Any = asked_by_name


@breaks("cancel.in_step")
class SpendsWhatWasCancelled(Strategy):
    async def acquire(self, *, key: str, cost: int) -> Any:
        try:
            return await super().acquire(key=key, cost=cost)
        except asyncio.CancelledError:
            taken, at = self.read(key)
            self.write(key, (taken + 10, at))
            raise


class NotesNoLoop(Limits):
    async def __aenter__(self) -> Self:
        return self


def test_an_honest_one_keeps_all(broken: Found) -> None:
    assert broken(subject(Strategy), CLAUSES) == set()


@pytest.mark.parametrize("made", GALLERY, ids=lambda made: made.__name__)
def test_a_broken_one_breaks_what_it_is_registered_for(made: type[Strategy], broken: Found) -> None:
    assert broken(subject(made), CLAUSES) == GALLERY[made]


def test_what_shows_only_after_a_history_is_found() -> None:
    (model,) = (each for each in clauses("ratelimiter") if ".model." in each.id)
    model.check(subject(Strategy))
    with pytest.raises(BrokenPromiseError) as failure:
        model.check(subject(ForgetsAll))
    assert "after [('acquire', " in failure.value.__notes__[0]


def test_one_without_a_loop_is_found(broken: Found) -> None:
    found = broken(subject(Strategy, NotesNoLoop), CLAUSES)
    assert found == {"ratelimiter.open.notes_its_loop", "ratelimiter.limiter.threads"}


def test_every_clause_can_be_broken() -> None:
    caught = set().union(*GALLERY.values())
    alone = {"ratelimiter.open.notes_its_loop", "ratelimiter.limiter.threads"}
    assert caught | alone == {each.id for each in CLAUSES}
