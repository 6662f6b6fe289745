"""What every rate limiter backend promises: its life, cancellation, processes, bad networks."""

import asyncio
import inspect
import random
from collections.abc import Awaitable
from typing import Any

from grelmicro.resilience import (
    FixedWindowConfig,
    RateLimiter,
    RateLimiterBackend,
    SlidingWindowConfig,
    TokenBucketConfig,
)
from grelmicro.testing.conformance._faults import faults_of
from grelmicro.testing.conformance._kit import clause, promise, same
from grelmicro.testing.conformance._models import Machine, agree
from grelmicro.testing.conformance._processes import in_processes
from grelmicro.testing.conformance._subject import Capability, Subject
from grelmicro.testing.conformance.ratelimiter import HOURLY, take


@clause("ratelimiter.call.by_keyword", closed=True)
async def call_by_keyword(subject: Subject) -> None:
    """Every method can be called with the contract's keywords, and needs no more than those.

    Callers use keywords, so that backends can be wrapped. Name the parameters as the contract does,
    and give others a default.
    """
    provider = subject.provider()
    strategy = subject.adapter("ratelimiter", provider).bind(HOURLY[0])
    contract: dict[str, dict[str, Any]] = {
        "acquire": {"key": "k", "cost": 1},
        "peek": {"key": "k", "cost": 1},
        "reset": {"key": "k"},
    }
    for name, keywords in contract.items():
        try:
            inspect.signature(getattr(strategy, name)).bind(**keywords)
        except TypeError as error:
            promise(False, f"{name}({', '.join(keywords)}): {error}")


@clause("ratelimiter.open.notes_its_loop", closed=True)
async def open_notes_its_loop(subject: Subject) -> None:
    """`_loop` is the loop it was opened on, and None before and after.

    Callers in threads find their way by it. Set it in `__aenter__`, and forget it in `__aexit__`.
    """
    provider = subject.provider()
    async with provider:
        limits = subject.adapter("ratelimiter", provider)
        same(limits._loop, None, "_loop before it is opened")
        async with limits:
            promise(limits._loop is asyncio.get_running_loop(), "the running loop while it is open")
        same(limits._loop, None, "_loop after it was closed")


@clause("ratelimiter.cancel.in_step")
async def cancel_in_step(limits: RateLimiterBackend) -> None:
    """After cancelled calls others are decided rightly, and at most what was asked for is taken.

    Requests are cancelled all the time. An answer that nobody waited for must not be taken for
    another's. What was asked and cancelled may be taken, or not.
    """
    config, chance = TokenBucketConfig(capacity=60, refill_rate=1e-3), random.Random(3)  # noqa: S311
    loop = asyncio.get_running_loop()
    tasks = [asyncio.ensure_future(take(limits, config, "k")) for _ in range(40)]
    for task in chance.sample(tasks, 20):
        loop.call_later(chance.uniform(0, 0.003), task.cancel)
    await asyncio.wait(tasks)
    found = [task.result() for task in tasks if not task.cancelled()]
    same(all(each.allowed for each in found), True, "whether those that were not cancelled passed")
    left = (await limits.bind(config).peek(key="k", cost=1)).remaining
    promise(20 <= left <= 60 - len(found), f"{left} remain after {len(found)} of 40")
    others = await asyncio.gather(*(take(limits, HOURLY[0], f"k{n}", 1) for n in range(20)))
    same({each.remaining for each in others}, {2}, "what remains of others")


@clause("ratelimiter.limiter.threads")
async def limiter_threads(limits: RateLimiterBackend) -> None:
    """A `RateLimiter` on it serves callers in threads, and waits for permits.

    Half of all Python code is in threads. It needs `_loop`, and nothing else of the backend.
    """
    limiter = RateLimiter.token_bucket("api", capacity=3, refill_rate=10, backend=limits)

    def ask() -> list[bool]:
        return [limiter.from_thread.acquire(key="k").allowed for _ in range(4)]

    same((await asyncio.to_thread(ask))[:3], [True] * 3, "what a thread was answered")
    waited = await asyncio.to_thread(limiter.from_thread.wait, key="k", timeout=5)
    same(waited.allowed, True, "what a thread waited for")


async def _greedy(limits: RateLimiterBackend, number: int) -> int:
    """Take what there is."""
    config = TokenBucketConfig(capacity=50, refill_rate=1e-3)
    asked = (take(limits, config, "k") for _ in range(40))
    return sum(each.allowed for each in await asyncio.gather(*asked))


@clause(
    "ratelimiter.processes.share",
    needs=(Capability.PROCESSES,),
    closed=True,
    seconds=60.0,
    slow=True,
)
async def processes_share(subject: Subject) -> None:
    """Processes share a quota: together they are let through as often as one would be.

    A service has replicas, and what is behind it has one capacity. Decide on the server.
    """
    found = await in_processes(subject, "ratelimiter", _greedy, 2)
    same(sum(found), 50, "how often two processes were let through together")


@clause("ratelimiter.model.agrees", closed=True, seconds=60.0, slow=True)
async def model_agrees(subject: Subject) -> None:
    """After any sequence of calls as much is left as there should be.

    Some defects show only after a certain history. Replay the steps that are told, which are as few
    as could be found.
    """
    await agree(subject, "ratelimiter", _Quotas)


class _Quotas(Machine):
    """Keys of each algorithm, and what was taken of each."""

    steps = ("acquire", "acquire", "acquire", "peek", "reset")
    configs = (
        TokenBucketConfig(capacity=5, refill_rate=1e-4),
        SlidingWindowConfig(limit=5, window=1e6),
        FixedWindowConfig(limit=5, window=1e6),
    )

    def begin(self) -> None:
        self.left: dict[object, int] = {}

    def can(self, step: str) -> bool:
        return True

    def do(self, step: str, first: int, second: int) -> Awaitable[Any]:
        return getattr(self, f"_{step}")(self.configs[first], f"k{second % 2}", 1 + second)  # type: ignore[no-any-return]  # one of `steps`

    async def _acquire(self, config: Any, key: str, cost: int) -> None:
        left = self.left.get((config, key), 5)
        found = await take(self.adapter, config, key, cost)
        same(found.allowed, cost <= left, f"{cost} of {left} by {config}")
        self.left[config, key] = left - cost if found.allowed else left
        same(found.remaining, self.left[config, key], f"what remains of {config}")

    async def _peek(self, config: Any, key: str, cost: int) -> None:
        left = self.left.get((config, key), 5)
        found = await self.adapter.bind(config).peek(key=key, cost=cost)
        same((found.allowed, found.remaining), (cost <= left, left), f"a look at {config}")

    async def _reset(self, config: Any, key: str, cost: int) -> None:
        await self.adapter.bind(config).reset(key=key)
        self.left.pop((config, key), None)


async def _use(limits: RateLimiterBackend, name: str) -> None:
    found = await take(limits, HOURLY[0], name)
    same((found.allowed, found.remaining), (True, 2), f"the first permit of {name!r}")
    found = await take(limits, HOURLY[0], name)
    same((found.allowed, found.remaining), (True, 1), f"the second permit of {name!r}")


faults_of("ratelimiter", _use)
