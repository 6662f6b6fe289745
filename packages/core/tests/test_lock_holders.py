"""Who holds a lock: tasks and threads that end with it, and blocks that end elsewhere."""

import asyncio
import gc
import threading
from collections.abc import AsyncGenerator, Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from grelmicro.sync import Lock, LockNotOwnedError, TaskLock
from grelmicro.sync._local import local_of
from grelmicro.sync.memory import MemorySyncAdapter


@pytest.fixture
async def backend() -> AsyncGenerator[MemorySyncAdapter]:
    async with MemorySyncAdapter() as backend:
        yield backend


async def until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not true():  # noqa: ASYNC110  # no event tells
            await asyncio.sleep(0.005)


async def test_a_task_that_ends_with_a_lock_has_it_for_one_lease(
    backend: MemorySyncAdapter,
) -> None:
    lock = Lock("cart", backend=backend, lease_duration=0.1)

    async def enter() -> Any:
        return await lock.__aenter__()

    handle = await asyncio.create_task(enter())
    await lock.acquire(timeout=5)
    await until(handle.lost.is_set)
    assert not local_of(backend)._holds


async def test_a_thread_that_ends_with_a_lock_has_it_for_one_lease(
    backend: MemorySyncAdapter,
) -> None:
    lock = Lock("cart", backend=backend, lease_duration=0.1)
    thread = threading.Thread(target=lambda: lock.from_thread.__enter__())
    thread.start()
    await until(lambda: not thread.is_alive())
    await lock.acquire(timeout=5)


async def test_a_block_that_outlives_its_thread_is_renewed(backend: MemorySyncAdapter) -> None:
    """A web framework may run the two halves of a generator in two threads."""
    lock = Lock("cart", backend=backend, lease_duration=2)

    @contextmanager
    def dependency() -> Generator[Any]:
        with lock.from_thread as handle:
            yield handle

    block = dependency()
    with ThreadPoolExecutor(1) as one:
        handle = await asyncio.get_running_loop().run_in_executor(one, block.__enter__)
    gc.collect()
    ends = handle.deadline
    await until(lambda: handle.deadline > ends or handle.lost.is_set())  # after 2/3 s
    assert not handle.lost.is_set()
    await asyncio.to_thread(block.__exit__, None, None, None)
    assert not await lock.locked()
    with pytest.raises(LockNotOwnedError):
        await asyncio.to_thread(lock.from_thread.__exit__, None, None, None)


async def test_a_block_of_a_living_thread_may_end_in_another(backend: MemorySyncAdapter) -> None:
    loop = asyncio.get_running_loop()
    lock = Lock("cart", backend=backend)
    job = TaskLock("cart", backend=backend, min_lock_seconds=0)
    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as other:
        for block in (lock.from_thread, job.from_thread):
            await loop.run_in_executor(one, block.__enter__)
            await loop.run_in_executor(other, block.__exit__, None, None, None)
            await loop.run_in_executor(other, block.__enter__)  # it is free
            await loop.run_in_executor(other, block.__exit__, None, None, None)


async def test_the_end_of_a_block_is_that_of_the_own_one(backend: MemorySyncAdapter) -> None:
    """A thread that gave its lock back in its block does not give back another thread's."""
    loop = asyncio.get_running_loop()
    shared = Lock("cart", backend=backend).from_thread
    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as other:
        await loop.run_in_executor(one, shared.__enter__)
        await loop.run_in_executor(one, shared.release)
        await loop.run_in_executor(other, shared.__enter__)
        with pytest.raises(LockNotOwnedError):
            await loop.run_in_executor(one, shared.__exit__, None, None, None)
        assert await loop.run_in_executor(other, shared.owned)
        await loop.run_in_executor(other, shared.__exit__, None, None, None)


async def test_a_block_whose_task_has_ended_may_end_in_another(
    backend: MemorySyncAdapter,
) -> None:
    lock = Lock("cart", backend=backend, lease_duration=30)

    async def fixture() -> AsyncGenerator[None]:
        async with lock:
            yield

    block = fixture()
    await asyncio.create_task(anext(block))
    assert await lock.locked()
    await asyncio.create_task(block.aclose())
    assert not await lock.locked()


async def test_a_generator_that_is_left_alone_has_it_no_longer_than_its_task(
    backend: MemorySyncAdapter, caplog: pytest.LogCaptureFixture
) -> None:
    lock = Lock("cart", backend=backend, lease_duration=0.1)

    async def numbers() -> AsyncGenerator[int]:
        async with lock:
            yield 1

    async def first() -> None:
        async for _ in numbers():
            break

    await asyncio.create_task(first())
    gc.collect()
    await lock.acquire(timeout=5)


async def test_those_who_died_with_a_lease_are_forgotten(backend: MemorySyncAdapter) -> None:
    lock = Lock("cart", backend=backend, lease_duration=0.02, retry_interval=0.005)
    for _ in range(20):
        await asyncio.create_task(lock.acquire(timeout=5))
    assert len(lock._holds) < 12


def test_two_loops_at_once_share_a_lock_in_memory() -> None:
    """Each has a queue of its own: neither wakes the other's tasks, nor waits for them in vain."""
    lock = Lock("cart", backend=MemorySyncAdapter(), retry_interval=0.005)
    inside: list[int] = []
    most: list[int] = []

    async def work() -> None:
        for _ in range(5):
            async with lock:
                inside.append(1)
                await asyncio.sleep(0.001)
                most.append(len(inside))
                inside.pop()

    async def several() -> None:
        async with asyncio.timeout(20):
            await asyncio.gather(*(work() for _ in range(4)))

    with ThreadPoolExecutor(2) as threads:
        for ended in [threads.submit(asyncio.run, several()) for _ in range(2)]:
            ended.result()
    assert most == [1] * 40


async def test_what_is_owed_to_a_backend_that_is_away_is_asked_for_by_turns() -> None:
    """Thousands who ask as often as one would leave no time for anything else."""

    class Away(MemorySyncAdapter):
        is_away = True
        asked = 0

        async def acquire(self, *, name: str, token: str, duration: float) -> int:
            await super().acquire(name=name, token=token, duration=duration)
            raise OSError("the answer is lost")

        async def release(self, *, name: str, token: str) -> bool:
            self.asked += 1
            if self.is_away:
                raise OSError("away")
            return await super().release(name=name, token=token)

    async with Away() as backend:
        locks = [Lock(f"cart {number}", backend=backend) for number in range(200)]
        await asyncio.gather(*(lock.acquire() for lock in locks), return_exceptions=True)
        await asyncio.sleep(0.5)
        assert 200 <= backend.asked < 250  # every 50 ms, once all have tried
        assert len(backend._leases) == 200
        backend.is_away = False
        await until(lambda: not backend._leases)
