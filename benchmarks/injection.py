"""Injection beside the same by hand: `injection.py [--rounds N] [--json FILE]`.

CPU time of one thread; every case has its turn in every round, and a ratio is the median over
rounds of the ratios within a round. Requests are measured as well, through an application that
was installed into: what injection costs beyond the bare view, beside what doing it by hand in the
view costs.
"""

import argparse
import asyncio
import gc
import json
import platform
import statistics
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from time import thread_time_ns
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from grelmicro.inject import Container
from grelmicro.inject._teardown import unwind
from grelmicro.starlette import install

TARGETS = {
    "request scope, shielded": 1.15,
    "request scope, unshielded": 0.65,
    "app-scoped value": 1.5,
    "injected view in Starlette": 1.0,
}


class Settings: ...


class A:
    def __init__(self, below: Any) -> None:
        self.below = below


class B(A): ...


class C(A): ...


def settings() -> Settings:
    return SETTINGS[Settings]


async def make_a(settings: Settings) -> AsyncIterator[A]:
    yield A(settings)


async def make_b(a: A) -> AsyncIterator[B]:
    yield B(a)


async def make_c(b: B) -> AsyncIterator[C]:
    yield C(b)


SETTINGS = {Settings: Settings()}
MANAGERS = [asynccontextmanager(each) for each in (make_a, make_b, make_c)]

Call = Callable[[], Awaitable[Any]]


def container() -> Container:
    """Settings(app) -> A -> B -> C."""
    made = Container()
    made.provider(settings, scope="app")
    for name, function in (("a", make_a), ("b", make_b), ("c", make_c)):
        made.provider(function, name=name)
    return made


async def by_hand() -> C:
    """The floor: what the scope does, written out with `AsyncExitStack`."""
    async with AsyncExitStack() as stack:
        value: Any = SETTINGS[Settings]
        for manager in MANAGERS:
            value = await stack.enter_async_context(manager(value))
        return await _view(value)


async def _view(c: C) -> C:
    return c


def unshielded(consumer: Any, scope_class: Any) -> Call:
    """What `Consumer.run` does, with a teardown that a second cancellation would cut short."""

    async def call() -> C:
        linked = consumer.linked
        scope = scope_class(consumer._host, linked.constants.copy())
        await scope.build_alone(linked.steps)
        kwargs = {}
        for name, node in linked.arguments:
            kwargs[name] = scope.values[node]
        try:
            return await _view(**kwargs)
        finally:
            await unwind(scope.exits, None)

    return call


async def _times(call: Call, calls: int) -> float:
    started = thread_time_ns()
    for _ in range(calls):
        await call()
    return (thread_time_ns() - started) / calls


def _times_sync(call: Callable[[], Any], calls: int) -> float:
    started = thread_time_ns()
    for _ in range(calls):
        call()
    return (thread_time_ns() - started) / calls


def requests(injecting: Container) -> dict[str, tuple[Starlette, Call]]:
    """A raw ASGI request to a view that is bare, does it by hand, or is injected."""

    async def bare(request: Request) -> Response:
        return PlainTextResponse("ok")

    async def hand(request: Request) -> Response:
        await by_hand()
        return PlainTextResponse("ok")

    async def injected(request: Request, c: C) -> Response:
        return PlainTextResponse("ok")

    views = {"bare": bare, "by hand": hand, "injected": injected}
    apps = {name: Starlette(routes=[Route("/", view)]) for name, view in views.items()}
    install(apps["injected"], container=injecting)
    return {name: (app, _request(app)) for name, app in apps.items()}


def _request(app: Any) -> Call:
    scope = {"type": "http", "method": "GET", "path": "/", "headers": [], "query_string": b""}

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        assert message.get("status", 200) == 200

    return lambda: app({**scope, "state": {}}, receive, send)


async def measured(rounds: int, calls: int) -> dict[str, list[float]]:
    """Nanoseconds a call, by case, one for each round."""
    samples: dict[str, list[float]] = {}
    made = container()
    consumer = made.consumer(_view)
    asgi = requests(made)
    injected, _ = asgi["injected"]
    async with injected.router.lifespan_context(injected), made.scope() as scope:
        await consumer.run(None, (), {})
        values = made.values
        cases: dict[str, Call] = {
            "by hand": by_hand,
            "shielded": lambda: consumer.run(None, (), {}),
            "unshielded": unshielded(consumer, type(scope)),
            **{f"request, {name}": call for name, (_, call) in asgi.items()},
        }
        reads = {"dict": lambda: SETTINGS[Settings], "values": lambda: values[Settings]}
        for call in cases.values():
            await _times(call, 200)
        gc.collect()
        gc.freeze()
        for _ in range(rounds):
            for name, call in cases.items():
                samples.setdefault(name, []).append(await _times(call, calls))
            for name, read in reads.items():
                samples.setdefault(name, []).append(_times_sync(read, calls * 20))
    return samples


def freezing(count: int = 1_000) -> float:
    """Seconds of CPU time to freeze so many providers and views."""
    made = Container()
    space: dict[str, Any] = {}
    made.add(1, "p0")
    for number in range(1, count + 1):
        needs = {f"p{number // 2}", f"p{number // 3}", f"p{max(number - 10, 0)}"}
        source = f"async def p{number}({', '.join(f'{n}: int' for n in sorted(needs))}) -> int: ..."
        exec(source, space)
        made.provider(space[f"p{number}"])
        exec(f"async def v{number}(p{number}: int, p{number // 7}: int) -> None: ...", space)
        made.inject(space[f"v{number}"])
    started = thread_time_ns()
    made.freeze()
    return (thread_time_ns() - started) / 1e9


def ratios(samples: dict[str, list[float]]) -> dict[str, list[float]]:
    """Each round's ratio to what it is compared with, sorted."""

    def over(name: str, floor: str, beyond: str | None = None) -> list[float]:
        less = samples[beyond] if beyond else [0.0] * len(samples[name])
        rounds = zip(samples[name], samples[floor], less, strict=True)
        return sorted((time - base) / (least - base) for time, least, base in rounds)

    found = {
        "request scope, shielded": over("shielded", "by hand"),
        "request scope, unshielded": over("unshielded", "by hand"),
        "app-scoped value": over("values", "dict"),
    }
    case = ("request, injected", "request, by hand", "request, bare")
    return {**found, "injected view in Starlette": over(*case)}


def main() -> None:
    """Measure, show, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--calls", type=int, default=1_000)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    samples = asyncio.run(measured(options.rounds, options.calls))
    rows = []
    print(f"{'injection, beside the same by hand':40} {'ratio':>6} {'target':>7}")
    for name, found in ratios(samples).items():
        middle, target = statistics.median(found), TARGETS[name]
        rows.append({"case": name, "ratio": middle, "target": target, "ratios": found})
        print(f"{name:40} {middle:6.2f} {target:6.2f}{' ' if middle <= target else '!'}")
    seconds = statistics.median(freezing() for _ in range(3))
    print(f"freezing 1,000 providers and 1,000 views: {seconds:.2f} s (target 1)")
    if options.json:
        found = {"python": platform.python_version(), "rows": rows, "freeze_seconds": seconds}
        medians = {name: statistics.median(times) for name, times in samples.items()}
        options.json.write_text(json.dumps({**found, "ns": medians}, indent=1))


if __name__ == "__main__":
    main()
