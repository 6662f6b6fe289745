"""What the kit does not ask: clocks that are set back, processes that begin at once, fleets."""

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE
from contextlib import suppress
from pathlib import Path
from time import time
from typing import Any

import pytest

from grelmicro.resilience import CircuitBreaker, CircuitBreakerError
from grelmicro_sqlite import SQLiteProvider, provider

HOUR = 3_600_000_000

TAKE = """
import asyncio, os, sys, time
from grelmicro_sqlite import SQLiteProvider

async def take(number):
    while time.time() < begin + number * 0.02:
        pass  # all begin in the same moment
    async with SQLiteProvider(f"sqlite:///{sys.argv[1]}/{number}.db") as file:
        return await file.sync().acquire(name="n", token=str(os.getpid()), duration=60)

async def main():
    return [await take(number) for number in range(60)]

print("ready", flush=True)
begin = float(sys.stdin.readline())
print(asyncio.run(main()))
"""


async def test_a_clock_set_back_prolongs_no_lease(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100 * HOUR
    monkeypatch.setattr(provider, "wall", lambda: now)
    async with SQLiteProvider(f"sqlite:///{tmp_path}/file.db") as file:
        locks = file.sync()
        first = await locks.acquire(name="n", token="a", duration=10)
        now -= 2 * HOUR
        assert not await locks.acquire(name="n", token="b", duration=10)
        now += 9_999_999
        assert not await locks.acquire(name="n", token="b", duration=10)
        now += 1
        assert await locks.acquire(name="n", token="b", duration=10) > first


async def test_processes_make_the_file_at_once(tmp_path: Path) -> None:
    processes = [await _process(tmp_path) for _ in range(4)]
    for each in processes:
        assert each.stdout is not None
        await each.stdout.readline()
    begin = f"{time() + 0.1}\n".encode()
    told = await asyncio.gather(*(each.communicate(begin) for each in processes))
    taken = [json.loads(out) for out, _ in told]
    assert [len([n for n in numbers if n > 0]) for numbers in zip(*taken, strict=True)] == [1] * 60


async def _process(folder: Path) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", TAKE, folder),
        stdin=PIPE,
        stdout=PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


async def test_an_opening_that_is_cancelled_leaves_nothing(tmp_path: Path) -> None:
    file = SQLiteProvider(f"sqlite:///{tmp_path}/file.db")
    for steps in range(12):
        opening = asyncio.ensure_future(file.__aenter__())
        for _ in range(steps):
            await asyncio.sleep(0)
        opening.cancel()
        await asyncio.wait([opening])
        assert opening.cancelled()
        with pytest.raises(RuntimeError, match="not open"):
            await file.ping()
    async with file:
        assert await file.ping() >= 0


@pytest.mark.parametrize(
    "settings",
    [
        {"error_threshold": 4},
        {"failure_rate": 0.5, "window": 8, "minimum_calls": 4},
        {"failure_rate": 0.5, "window_seconds": 60, "minimum_calls": 4},
    ],
    ids=["errors", "calls", "seconds"],
)
async def test_processes_share_a_breaker(tmp_path: Path, settings: dict[str, Any]) -> None:
    files = [SQLiteProvider(f"sqlite:///{tmp_path}/file.db") for _ in range(2)]
    async with files[0], files[1], files[0].breaker() as here, files[1].breaker() as there:
        one, other = (
            CircuitBreaker("b", **settings, success_threshold=1, backend=each)
            for each in (here, there)
        )
        for each in (one, other, one, other):
            with suppress(ZeroDivisionError, CircuitBreakerError):
                async with each:
                    raise ZeroDivisionError
        await _become("OPEN", one, other)
        await one.transition_to_half_open()
        await _become("HALF_OPEN", one, other)
        async with other:
            with pytest.raises(CircuitBreakerError):
                await one.__aenter__()
        await _become("CLOSED", one, other)


async def _become(state: str, *breakers: CircuitBreaker) -> None:
    async with asyncio.timeout(10):
        while {each.state for each in breakers} != {state}:  # noqa: ASYNC110  # nobody tells
            await asyncio.sleep(0.01)
