"""`lock="distributed"`: one load in the whole fleet, in processes of their own."""

import asyncio
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from grelmicro import Grelmicro
from grelmicro.cache import JsonSerializer, TTLCache, cached
from grelmicro.errors import ComponentNotRegisteredError, NoActiveAppError
from grelmicro.providers.memory import MemoryProvider
from grelmicro.sync.memory import MemorySyncAdapter

PROGRAM = Path(__file__).with_name("fleet_loads.py")

Start = Callable[[str], Awaitable[Process]]


@pytest.fixture(params=["redis", "postgres"])
async def start(request: pytest.FixtureRequest) -> AsyncGenerator[Start]:
    """Starts a process of the fleet, and waits until it is ready."""
    url = request.getfixturevalue(f"{request.param}_url")
    space = request.getfixturevalue(
        "redis_prefix" if request.param == "redis" else "postgres_schema"
    )
    async with AsyncExitStack() as stack:

        async def one(how: str) -> Process:
            process = await stack.enter_async_context(_process(url, space, how))
            assert await _line(process) == "ready"
            return process

        yield one


@asynccontextmanager
async def _process(url: str, space: str, how: str) -> AsyncGenerator[Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-W", "error", str(PROGRAM), url, space, how, stdin=PIPE, stdout=PIPE
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def _line(process: Process) -> str:
    assert process.stdout is not None
    async with asyncio.timeout(30):
        return (await process.stdout.readline()).decode().strip()


def _go(process: Process) -> None:
    assert process.stdin is not None
    process.stdin.write(b"\n")


@pytest.mark.parametrize("how", ["tasks", "threads"])
async def test_one_load_in_four_processes(start: Start, how: str) -> None:
    fleet = await asyncio.gather(*(start(how) for _ in range(4)))
    for process in fleet:
        _go(process)
    lines: list[str] = []
    for process in fleet:
        while not (line := await _line(process)).startswith("got"):
            lines.append(line)
        assert line == "got 168"
    assert lines == ["loads"]


async def test_a_loader_that_dies_frees_the_others(start: Start) -> None:
    dying, other = await asyncio.gather(start("hangs"), start("tasks"))
    _go(dying)
    assert await _line(dying) == "loads"
    _go(other)
    dying.send_signal(signal.SIGKILL)
    assert await _line(other) == "loads"
    assert await _line(other) == "got 168"


async def test_it_needs_an_app_that_has_locks() -> None:
    cache: TTLCache[int] = TTLCache(backend=MemoryProvider().cache(), serializer=JsonSerializer())

    @cached(cache, lock="distributed")
    async def load() -> int:
        return 42

    with pytest.raises(NoActiveAppError):
        await load()
    async with Grelmicro(uses=[MemoryProvider().cache()]):
        with pytest.raises(ComponentNotRegisteredError):
            await load()
    async with Grelmicro(uses=[MemoryProvider()]):
        assert await load() == 42


async def test_without_its_locks_every_process_loads(caplog: pytest.LogCaptureFixture) -> None:
    class Failing(MemorySyncAdapter):
        async def acquire(self, **_: Any) -> int:
            raise OSError("away")

    loads: list[int] = []
    cache: TTLCache[int] = TTLCache(backend=MemoryProvider().cache(), serializer=JsonSerializer())

    @cached(cache, lock="distributed")
    async def load(number: int) -> int:
        loads.append(number)
        return number

    async with Grelmicro(uses=[Failing()]):
        assert [await load(1), await load(2), await load(1)] == [1, 2, 1]
    assert loads == [1, 2]
    warnings = [record for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1
    assert "away; every process loads" in warnings[0].getMessage()


async def test_a_lock_that_is_lost_during_a_load_does_not_lose_the_value() -> None:
    backend = MemorySyncAdapter()
    cache: TTLCache[int] = TTLCache(backend=MemoryProvider().cache(), serializer=JsonSerializer())

    @cached(cache, lock="distributed")
    async def load() -> int:
        backend._leases.clear()
        return 42

    async with Grelmicro(uses=[backend]):
        assert await load() == 42
