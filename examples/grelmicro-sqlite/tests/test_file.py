"""What the kit cannot know: the clock of a host that is set back, and processes that begin at once."""

import asyncio
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from grelmicro_sqlite import SQLiteProvider, provider

HOUR = 3_600_000_000


async def test_a_clock_set_back_prolongs_no_lease(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    time = 100 * HOUR
    monkeypatch.setattr(provider, "wall", lambda: time)
    async with SQLiteProvider(f"sqlite:///{tmp_path}/file.db") as file:
        locks = file.sync()
        first = await locks.acquire(name="n", token="a", duration=10)
        time -= 2 * HOUR
        assert not await locks.acquire(name="n", token="b", duration=10)
        time += 9_999_999
        assert not await locks.acquire(name="n", token="b", duration=10)
        time += 1
        assert await locks.acquire(name="n", token="b", duration=10) > first


def test_processes_make_the_file_at_once(tmp_path: Path) -> None:
    with ProcessPoolExecutor(4, mp_context=multiprocessing.get_context("spawn")) as pool:
        urls = [f"sqlite:///{tmp_path}/{number // 4}.db" for number in range(40)]
        numbers = [*pool.map(_take, urls)]
    for start in range(0, 40, 4):
        assert sum(number > 0 for number in numbers[start : start + 4]) == 1


def _take(url: str) -> int:
    async def take() -> int:
        async with SQLiteProvider(url) as file:
            return await file.sync().acquire(name="n", token=str(object()), duration=60)

    return asyncio.run(take())


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
