"""What the kit cannot know: a clock that is set back, and processes that begin at once."""

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE
from pathlib import Path
from time import time

import pytest

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
