"""Successful calls through circuit breakers, side by side; `breakers.py --help` tells the options.

Every case has its turn in every round, in short turns beside an empty asynchronous context manager:
the ratio is to that.
"""

import argparse
import asyncio
import gc
import importlib
import json
import platform
import statistics
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple, Self

TURNS = 20
FLOOR = "empty async context manager"
MEMORY = "CircuitBreaker, open app's backend"
TARGETS = {MEMORY: 3.0}
OVER_MEMORY = 1.5
"""What a call may take over a server, by what it takes in memory."""

Run = Callable[[int], Awaitable[None]]


class Case(NamedTuple):
    """What is measured: so many successful calls."""

    name: str
    run: Run


class Empty:
    """What every asynchronous context manager written in Python does at least."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        return None


def blocks(manager: Any) -> Run:
    """Calls as `async with` blocks."""

    async def run(calls: int) -> None:
        for _ in range(calls):
            async with manager:
                pass

    return run


def functions(call: Callable[[], Awaitable[Any]]) -> Run:
    """Calls of a function that is guarded."""

    async def run(calls: int) -> None:
        for _ in range(calls):
            await call()

    return run


async def nothing() -> None:
    """A call that goes well."""


async def ours(stack: AsyncExitStack) -> list[Case]:
    from grelmicro import Grelmicro
    from grelmicro.resilience import CircuitBreaker
    from grelmicro.resilience.memory import MemoryCircuitBreakerAdapter

    backend = MemoryCircuitBreakerAdapter()
    await stack.enter_async_context(Grelmicro(uses=[backend]))
    rates = CircuitBreaker("rates", failure_rate=0.5)
    slow = CircuitBreaker("slow", slow_call_rate=0.5, slow_call_duration=1, window_seconds=60)
    return [
        Case(MEMORY, blocks(CircuitBreaker("ambient"))),
        Case("CircuitBreaker, backend given", blocks(CircuitBreaker("given", backend=backend))),
        Case("CircuitBreaker, decorator", functions(CircuitBreaker("decorator")(nothing))),
        Case("CircuitBreaker, failure rate", blocks(rates)),
        Case("CircuitBreaker, slow calls", blocks(slow)),
    ]


async def on_servers(stack: AsyncExitStack) -> list[Case]:
    from grelmicro import Grelmicro
    from grelmicro.providers import from_url
    from grelmicro.resilience import Breaker, CircuitBreaker
    from grelmicro.testing.servers import postgres_server, redis_server

    cases = []
    for kind, server in (("Redis", redis_server), ("Postgres", postgres_server)):
        provider = from_url(stack.enter_context(server()).url)
        app = Grelmicro(uses=[provider, Breaker(provider)])
        await stack.enter_async_context(app)
        each = CircuitBreaker("b", backend=app.circuitbreaker)
        async with each:
            pass
        cases.append(Case(f"CircuitBreaker on {kind}, app's backend", blocks(each)))
    return cases


async def aiobreaker() -> Case:
    breaker = importlib.import_module("aiobreaker").CircuitBreaker(fail_max=5)
    return Case("aiobreaker, call_async", functions(lambda: breaker.call_async(nothing)))


async def hyx() -> Case:
    module = importlib.import_module("hyx.circuitbreaker")
    breaker = module.consecutive_breaker(
        exceptions=Exception, failure_threshold=5, recovery_time_secs=30, recovery_threshold=2
    )
    return Case("hyx, context manager", blocks(breaker))


async def purgatory() -> Case:
    factory = importlib.import_module("purgatory").AsyncCircuitBreakerFactory()
    return Case("purgatory, context manager", blocks(await factory.get_breaker("b")))


async def peers() -> list[Case]:
    """Those that are installed here."""
    found = []
    for make in (aiobreaker, hyx, purgatory):
        try:
            case = await make()
            await case.run(1)
            found.append(case)
        except Exception as error:  # whatever stands in its way, the others are measured
            print(f"left out: {make.__name__}: {type(error).__name__}: {error}")
    return found


async def beside(case: Case, floor: Case, calls: int) -> tuple[float, float]:
    """A case and its floor in short turns: whatever slows the machine down slows both."""
    times = [0.0, 0.0]
    for _ in range(TURNS):
        for index, each in enumerate((case, floor)):
            started = perf_counter()
            await each.run(calls // TURNS)
            times[index] += perf_counter() - started
    return times[0] / calls * 1e9, times[1] / calls * 1e9


@asynccontextmanager
async def all_cases() -> AsyncGenerator[list[Case], None]:
    async with AsyncExitStack() as stack:
        # The servers' first: what is opened last is the context's own app.
        fleet = await on_servers(stack)
        yield [*await ours(stack), *fleet, *await peers()]


async def measure(rounds: int, calls: int) -> list[dict[str, Any]]:
    samples: dict[str, list[tuple[float, float]]] = {}
    floor = Case(FLOOR, blocks(Empty()))
    async with all_cases() as cases:
        gc.disable()
        for _ in range(rounds):
            for case in cases:
                samples.setdefault(case.name, []).append(await beside(case, floor, calls))
            gc.collect()
    return [row(name, pairs) for name, pairs in samples.items()]


def row(name: str, pairs: list[tuple[float, float]]) -> dict[str, Any]:
    ratios = sorted(time / floor for time, floor in pairs)
    return {
        "case": name,
        "nanoseconds": round(statistics.median(time for time, _ in pairs)),
        "ratio": round(statistics.median(ratios), 2),
        "from": round(ratios[0], 2),
        "to": round(ratios[-1], 2),
        "target": TARGETS.get(name),
    }


def with_targets(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Breakers of a fleet have to keep up with those in memory."""
    memory = next(row["ratio"] for row in rows if row["case"] == MEMORY)
    for each in rows:
        if " on " in each["case"]:
            each["target"] = round(memory * OVER_MEMORY, 2)
    return rows


def print_table(rows: list[dict[str, Any]]) -> None:
    print(f"{'a successful call':46} {'ns':>7} {'ratio':>7} {'range':>13} {'at most':>8}")
    for row in rows:
        span, target = f"{row['from']}-{row['to']}", row["target"] or ""
        missed = "  missed" if row["target"] and row["ratio"] > row["target"] else ""
        numbers = f"{row['nanoseconds']:>7} {row['ratio']:>7} {span:>13} {target:>8}"
        print(f"{row['case']:46} {numbers}{missed}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--calls", type=int, default=20_000, help="of a case in each round")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    options = parser.parse_args()
    print(f"Python {platform.python_version()}; ratios to an {FLOOR}")
    rows = with_targets(asyncio.run(measure(options.rounds, options.calls)))
    print_table(rows)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
