"""Runs cases in one environment: a case a line in, nanoseconds a call a line out."""

import asyncio
import gc
import importlib
import json
import sys
from time import perf_counter_ns

import floors

TURNS = 10


async def _many(case: floors.Case, calls: int) -> None:
    function, argument = case.function, case.argument
    for _ in range(calls):
        await function(argument)


def _many_sync(case: floors.Case, calls: int) -> None:
    function, argument = case.function, case.argument
    for _ in range(calls):
        function(argument)


def _many_trips(case: floors.Case, calls: int, loop: asyncio.AbstractEventLoop) -> None:
    function, argument = case.function, case.argument
    for _ in range(calls):
        asyncio.run_coroutine_threadsafe(function(argument), loop).result()


def _timed(function: object, *args: object) -> int:
    started = perf_counter_ns()
    function(*args)  # type: ignore[operator]
    return perf_counter_ns() - started


async def _measure(case: floors.Case, calls: int) -> float:
    if case.where == "async":
        started = perf_counter_ns()
        await _many(case, calls)
        return (perf_counter_ns() - started) / calls
    if case.where == "sync":
        return _timed(_many_sync, case, calls) / calls
    if case.where == "thread":
        return await asyncio.to_thread(_timed, _many_sync, case, calls) / calls
    calls = max(calls // 40, 1)
    loop = asyncio.get_running_loop()
    return await asyncio.to_thread(_timed, _many_trips, case, calls, loop) / calls


async def _measure_beside(case: floors.Case, floor: floors.Case, calls: int) -> list[float]:
    """Measure a case and its floor in turns: whatever slows the machine down slows both."""
    floor_time = case_time = 0.0
    for _ in range(TURNS):
        floor_time += await _measure(floor, calls // TURNS)
        case_time += await _measure(case, calls // TURNS)
    return [case_time / TURNS, floor_time / TURNS]


async def main(module: str) -> None:
    """Make the cases, tell their names and floors, then measure what is asked for."""
    known_floors = await floors.cases()
    known = await importlib.import_module(module).cases()
    for case in (*known_floors.values(), *known.values()):
        await _measure(case, 400)
    gc.collect()
    gc.freeze()
    print(json.dumps({name: case.floor for name, case in known.items()}), flush=True)
    for line in sys.stdin:
        name, calls = json.loads(line)
        case = known[name]
        print(json.dumps(await _measure_beside(case, known_floors[case.floor], calls)), flush=True)


asyncio.run(main(sys.argv[1]))
