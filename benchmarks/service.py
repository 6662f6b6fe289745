"""What a service's bootstrap costs: `service.py [--rounds N] [--json FILE]`.

CPU time of one thread, every case in its turn in every round; a ratio is the median over rounds of
the ratios within a round. `di.nject` is compared with `scope.get` of the injection engine, which
makes the same class in a scope of its own, less what the empty scope costs; `context.get` with a
read of a `ChainMap` of as many layers.
"""

import argparse
import asyncio
import json
import platform
import statistics
import subprocess
import sys
from collections import ChainMap
from collections.abc import Awaitable, Callable
from pathlib import Path
from time import perf_counter, thread_time_ns
from typing import Any

from grelmicro.inject import Container
from grelmicro.service import context, di, plugin

TARGETS = {"di.nject": 3.0, "context.get, 3 layers": 2.0, "context.get, 8 layers": 2.0}
CALLS = 2_000

Call = Callable[[], Awaitable[Any]]


class A: ...


class B: ...


class Service:
    def __init__(self, a: A, b: B) -> None:
        self.a, self.b = a, b


async def _times(call: Call) -> float:
    started = thread_time_ns()
    for _ in range(CALLS):
        await call()
    return (thread_time_ns() - started) / CALLS


def _times_sync(call: Callable[[], Any]) -> float:
    started = thread_time_ns()
    for _ in range(CALLS * 10):
        call()
    return (thread_time_ns() - started) / CALLS / 10


async def injections(rounds: int) -> dict[str, list[float]]:
    """Nanoseconds a call, by case, one for each round."""
    container = Container()
    for each in (A(), B()):
        container.add(each)
        context.add(each)
    container.register(Service)
    di.register(Service)
    samples: dict[str, list[float]] = {}

    async def in_a_scope() -> Service:
        async with container.scope() as scope:
            return await scope.get(Service)

    async def empty() -> None:
        async with container.scope():
            return

    cases: dict[str, Call] = {
        "nject": lambda: di.nject(Service),
        "get": in_a_scope,
        "empty": empty,
    }
    async with container:
        for call in cases.values():
            await _times(call)
        for _ in range(rounds):
            for name, call in cases.items():
                samples.setdefault(name, []).append(await _times(call))
    return samples


def reads(rounds: int, layers: int) -> list[float]:
    """Each round's ratio of a read of what stands in the outermost of so many layers."""
    chain: ChainMap[Any, Any] = ChainMap({A: A()})
    with context.entered(context.Context()):
        context.add(A())
        for _ in range(layers - 1):
            context.push()
            context.add(B())
            chain = chain.new_child({B: B()})
        return [
            _times_sync(lambda: context.get(A)) / _times_sync(lambda: chain[A])
            for _ in range(rounds)
        ]


def bootstrap(rounds: int) -> float:
    """Seconds, best of so many rounds, for ten empty plugins, beyond interpreter and imports."""

    def made(number: int) -> Callable[[], Awaitable[None]]:
        async def prepare() -> None: ...

        prepare.__qualname__ = f"prepare_{number}"
        return prepare

    times = []
    for _ in range(rounds):
        started = perf_counter()
        plugin.stage(*map(made, range(10)))
        times.append(perf_counter() - started)
    return min(times)


def whole_process() -> float:
    """Seconds from the start of an interpreter to the end of a stage without plugins."""
    started = perf_counter()
    subprocess.run(
        [sys.executable, "-c", "from grelmicro.service import plugin; plugin.stage()"], check=True
    )
    return perf_counter() - started


def main() -> None:
    """Measure, show, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    samples = asyncio.run(injections(options.rounds))
    rounds = zip(samples["nject"], samples["get"], samples["empty"], strict=True)
    found = {"di.nject": [nject / (get - empty) for nject, get, empty in rounds]}
    for layers in (3, 8):
        found[f"context.get, {layers} layers"] = reads(options.rounds, layers)
    print(f"{'service':40} {'ratio':>6} {'target':>7}")
    rows = []
    for name, ratios in found.items():
        middle, target = statistics.median(ratios), TARGETS[name]
        rows.append({"case": name, "ratio": middle, "target": target, "ratios": sorted(ratios)})
        print(f"{name:40} {middle:6.2f} {target:6.2f}{' ' if middle <= target else '!'}")
    seconds, whole = bootstrap(options.rounds), min(whole_process() for _ in range(3))
    print(f"ten empty plugins: {seconds * 1000:.1f} ms (target 50)")
    print(f"interpreter, imports and an empty stage: {whole * 1000:.0f} ms")
    if options.json:
        times = {"bootstrap_seconds": seconds, "process_seconds": whole}
        known = {"python": platform.python_version(), "rows": rows, **times}
        options.json.write_text(json.dumps(known, indent=1))


if __name__ == "__main__":
    main()
