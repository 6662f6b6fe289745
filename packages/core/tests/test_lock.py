"""`Lock` in memory: who holds it, who waits, and what happens when nobody is left."""

import asyncio
import math
import threading
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import pytest

from grelmicro import Grelmicro
from grelmicro.errors import BackendNotOpenError, NoActiveAppError
from grelmicro.providers.memory import MemoryProvider
from grelmicro.sync import (
    LeaderElection,
    Lock,
    LockAcquireError,
    LockLostError,
    LockNotOwnedError,
    LockReentrantError,
    LockReleaseError,
    LockTimeoutError,
    Sync,
    SyncSettingsValidationError,
    TaskLock,
    WouldBlockError,
)
from grelmicro.sync._local import local_of
from grelmicro.sync.memory import MemorySyncAdapter


@pytest.fixture
async def backend() -> AsyncGenerator[MemorySyncAdapter]:
    async with MemorySyncAdapter() as backend:
        yield backend
    assert asyncio.all_tasks() == {asyncio.current_task()}


class Faulty(MemorySyncAdapter):
    """A backend that answers late, or fails, on command."""

    def __init__(self) -> None:
        super().__init__()
        self.fails = False
        self.answers = asyncio.Event()
        self.answers.set()
        self.asked = asyncio.Event()
        self.requests: list[str] = []

    async def acquire(self, *, name: str, token: str, duration: float) -> int:
        self.requests.append("acquire")
        if self.fails:
            raise ConnectionError("gone")
        number = await super().acquire(name=name, token=token, duration=duration)
        self.asked.set()
        await self.answers.wait()
        return number

    async def release(self, *, name: str, token: str) -> bool:
        self.requests.append("release")
        if self.fails:
            raise ConnectionError("gone")
        released = await super().release(name=name, token=token)
        self.asked.set()
        await self.answers.wait()
        return released


async def test_one_holder_at_a_time(backend: MemorySyncAdapter) -> None:
    inside = most = 0
    done: list[int] = []

    async def work(number: int) -> None:
        nonlocal inside, most
        async with Lock("cart", backend=backend):
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0)
            inside -= 1
        done.append(number)

    await asyncio.gather(*(work(number) for number in range(50)))
    assert most == 1
    assert done == [*range(50)]  # in the order they came


async def test_the_number_rises_with_every_holder(backend: MemorySyncAdapter) -> None:
    lock = Lock("cart", backend=backend)
    numbers = []
    for _ in range(5):
        async with lock as handle:
            numbers.append(handle.fencing_token)
    assert numbers == sorted({*numbers})
    assert numbers[0] > 0


async def test_locks_of_other_names_are_other_locks(backend: MemorySyncAdapter) -> None:
    async with Lock("a", backend=backend), Lock("b", backend=backend):
        assert await Lock("a", backend=backend).locked()
        assert not await Lock("c", backend=backend).locked()


async def test_owned_is_for_the_holder_alone(backend: MemorySyncAdapter) -> None:
    lock = Lock("cart", backend=backend)
    assert not await lock.owned()
    async with lock:
        assert await lock.owned()
        assert not await asyncio.create_task(lock.owned())
        assert not await Lock("cart", backend=backend).owned()
        assert await lock.locked()
    assert not await lock.locked()


async def test_who_holds_it_is_not_let_in_again(backend: MemorySyncAdapter) -> None:
    lock = Lock("cart", backend=backend)
    async with lock:
        for ask in (lock.acquire, lock.acquire_nowait, lock.__aenter__):
            with pytest.raises(LockReentrantError, match="cart"):
                await ask()
    async with lock:
        pass


async def test_nowait_of_a_lock_that_is_held(backend: MemorySyncAdapter) -> None:
    async with Lock("cart", backend=backend):
        with pytest.raises(WouldBlockError, match="cart"):
            await Lock("cart", backend=backend).acquire_nowait()
    lock = Lock("cart", backend=backend)
    assert (await lock.acquire_nowait()).fencing_token > 0
    await lock.release()


@pytest.mark.parametrize("timeout", [0, 0.01, 0.05])
async def test_a_timeout(timeout: float, backend: MemorySyncAdapter) -> None:
    waiter = Lock("cart", backend=backend)
    async with Lock("cart", backend=backend):
        with pytest.raises(LockTimeoutError, match=r"cart.*within"):
            await waiter.acquire(timeout)
        assert not local_of(backend).queues.lines
    assert await waiter.acquire(timeout)
    await waiter.release()


async def test_a_timeout_of_nothing_tries_all_the_same_while_others_wait(
    backend: MemorySyncAdapter,
) -> None:
    holder, lock = Lock("cart", backend=backend), Lock("cart", backend=backend)
    await holder.acquire()
    waiting = [asyncio.create_task(Lock("cart", backend=backend).acquire(5)) for _ in range(3)]
    await asyncio.sleep(0)
    for timeout in (0, 0.01):
        with pytest.raises(LockTimeoutError):
            await lock.acquire(timeout)
    for task in waiting:
        task.cancel()
    await asyncio.wait(waiting)
    await holder.release()
    assert not local_of(backend).queues.lines


async def test_a_waiter_that_leaves_lets_the_next_one_in(backend: MemorySyncAdapter) -> None:
    order: list[int] = []

    async def work(number: int) -> None:
        async with Lock("cart", backend=backend):
            order.append(number)

    holder = Lock("cart", backend=backend)
    await holder.acquire()
    tasks = [asyncio.create_task(work(number)) for number in range(6)]
    await asyncio.sleep(0)
    for number in (0, 3, 5):
        tasks[number].cancel()
    await asyncio.sleep(0)
    await holder.release()
    await asyncio.wait(tasks)
    assert order == [1, 2, 4]
    assert not local_of(backend).queues.lines


async def test_releasing_what_is_not_ours(backend: MemorySyncAdapter) -> None:
    lock = Lock("cart", backend=backend)
    with pytest.raises(LockNotOwnedError, match="cart"):
        await lock.release()
    with pytest.raises(LockNotOwnedError, match="cart"):
        await lock.extend()
    async with lock:
        with pytest.raises(LockNotOwnedError):
            await asyncio.create_task(lock.release())
        assert await lock.owned()


async def test_a_lease_that_ended_belongs_to_the_next_holder() -> None:
    backend = MemorySyncAdapter()
    lock = Lock("cart", backend=backend, lease_duration=0.02)
    late = await lock.acquire()
    numbers: list[int] = []

    async def next_one() -> None:
        handle = await lock.acquire(5)
        numbers.append(handle.fencing_token)

    task = asyncio.create_task(next_one())
    await asyncio.wait([task])
    assert numbers[0] > late.fencing_token
    with pytest.raises(LockLostError, match="lost"):
        await lock.release()
    assert late.lost.is_set()
    assert await lock.locked()  # the next holder's lease is as it was
    with pytest.raises(LockNotOwnedError):
        await lock.release()


async def test_the_same_task_may_have_it_again_after_its_own_lease_ended() -> None:
    lock = Lock("cart", backend=MemorySyncAdapter(), lease_duration=0.01)
    first = await lock.acquire()
    while await lock.owned():  # noqa: ASYNC110  # no event tells
        await asyncio.sleep(0.002)
    second = await lock.acquire()
    assert second.fencing_token > first.fencing_token


async def test_extending(backend: MemorySyncAdapter) -> None:
    lock = Lock("cart", backend=backend, lease_duration=0.2)
    await lock.acquire()
    for _ in range(4):
        await asyncio.sleep(0.08)
        await lock.extend()
    assert await lock.owned()
    await lock.release()


async def test_extending_what_ended_is_an_error_and_takes_nothing(
    backend: MemorySyncAdapter,
) -> None:
    lock = Lock("cart", backend=backend, lease_duration=0.01)
    handle = await lock.acquire()
    while await lock.owned():  # noqa: ASYNC110  # no event tells
        await asyncio.sleep(0.002)
    with pytest.raises(LockLostError):
        await lock.extend()
    assert handle.lost.is_set()
    await local_of(backend).settle()
    assert not await lock.locked()


async def test_a_block_renews_its_lease(backend: MemorySyncAdapter) -> None:
    async with Lock("cart", backend=backend, lease_duration=0.1) as handle:
        await asyncio.sleep(0.35)
        assert await Lock("cart", backend=backend).locked()
        assert not handle.lost.is_set()
    assert not await Lock("cart", backend=backend).locked()


@pytest.mark.parametrize("settings", [{"renew": False}, {"max_hold": 0.05}])
async def test_a_lease_that_is_not_renewed_ends_and_the_block_says_so(
    settings: dict[str, Any], backend: MemorySyncAdapter
) -> None:
    with pytest.raises(LockLostError):  # noqa: PT012  # leaving the block is the subject
        async with Lock("cart", backend=backend, lease_duration=0.05, **settings):
            while await Lock("cart", backend=backend).locked():  # noqa: ASYNC110  # no event tells
                await asyncio.sleep(0.005)


async def test_a_lost_lease_is_told_within_a_renewal(backend: MemorySyncAdapter) -> None:
    with pytest.raises(LockLostError):  # noqa: PT012  # leaving the block is the subject
        async with Lock("cart", backend=backend, lease_duration=0.3) as handle:
            backend._leases.clear()  # somebody has deleted it
            async with asyncio.timeout(5):
                await handle.lost.wait()
    await local_of(backend).settle()
    assert not await Lock("cart", backend=backend).locked()  # and it is not taken anew


async def test_the_error_of_a_block_is_not_hidden_by_a_lost_lease(
    backend: MemorySyncAdapter,
) -> None:
    with pytest.raises(ZeroDivisionError) as caught:  # noqa: PT012  # leaving the block is the subject
        async with Lock("cart", backend=backend):
            backend._leases.clear()
            _ = 1 / 0
    assert ["LockLostError" in note for note in caught.value.__notes__] == [True]


async def test_a_loop_that_was_blocked_for_longer_than_the_lease(
    backend: MemorySyncAdapter,
) -> None:
    with pytest.raises(LockLostError):  # noqa: PT012  # leaving the block is the subject
        async with Lock("cart", backend=backend, lease_duration=0.05) as handle:
            threading.Event().wait(0.1)
            async with asyncio.timeout(5):
                await handle.lost.wait()


async def test_a_backend_that_cannot_renew_is_a_lost_lease() -> None:
    backend = Faulty()
    with pytest.raises(LockReleaseError):  # noqa: PT012  # leaving the block is the subject
        async with Lock("cart", backend=backend, lease_duration=0.1) as handle:
            backend.fails = True
            async with asyncio.timeout(5):
                await handle.lost.wait()
    assert backend.requests.count("acquire") > 2


async def test_renewal_survives_a_failure_that_passes() -> None:
    backend = Faulty()
    async with Lock("cart", backend=backend, lease_duration=0.3) as handle:
        backend.fails = True
        before = len(backend.requests)
        while len(backend.requests) < before + 2:  # noqa: ASYNC110  # no event tells
            await asyncio.sleep(0.005)
        backend.fails = False
        await asyncio.sleep(0.4)
        assert not handle.lost.is_set()
        assert await Lock("cart", backend=backend).locked()


async def test_a_failing_backend_is_the_areas_error_with_its_cause() -> None:
    backend = Faulty()
    backend.fails = True
    lock = Lock("cart", backend=backend)
    for ask in (lock.acquire, lock.acquire_nowait, lock.__aenter__):
        with pytest.raises(LockAcquireError, match="ConnectionError") as caught:
            await ask()
        assert isinstance(caught.value.__cause__, ConnectionError)
    backend.fails = False
    await lock.acquire()
    backend.fails = True
    with pytest.raises(LockReleaseError):
        await lock.release()
    backend.fails = False
    await lock.release()  # releasable again
    await local_of(backend).settle()


async def test_cancelled_after_the_backend_granted_it() -> None:
    backend = Faulty()
    backend.answers.clear()
    asking = asyncio.create_task(Lock("cart", backend=backend).acquire())
    await backend.asked.wait()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    backend.answers.set()
    async with asyncio.timeout(5):
        await Lock("cart", backend=backend).acquire()


async def test_a_timeout_after_the_backend_granted_it() -> None:
    backend = Faulty()
    async with Lock("other", backend=backend):
        pass
    backend.answers.clear()
    lock = Lock("cart", backend=backend)
    task = asyncio.create_task(asyncio.wait_for(lock.acquire(), 0.02))
    with pytest.raises(TimeoutError):
        await task
    backend.answers.set()
    async with asyncio.timeout(5):
        await Lock("cart", backend=backend).acquire()


async def test_cancelled_while_leaving_it_is_given_back_all_the_same() -> None:
    backend = Faulty()

    async def hold() -> None:
        async with Lock("cart", backend=backend):
            backend.asked.clear()
            backend.answers.clear()

    holding = asyncio.create_task(hold())
    await backend.asked.wait()
    await asyncio.sleep(0)
    await backend.asked.wait()
    holding.cancel()
    with pytest.raises(asyncio.CancelledError):
        await holding
    backend.answers.set()
    async with asyncio.timeout(5):
        await Lock("cart", backend=backend).acquire()


async def test_cancelled_while_releasing_it_is_releasable_again() -> None:
    backend = Faulty()
    lock = Lock("cart", backend=backend)
    await lock.acquire()
    backend.answers.clear()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.02):
            await lock.release()
    backend.answers.set()
    with pytest.raises(LockNotOwnedError):  # the first one was done
        await lock.release()
    assert not await lock.locked()


@pytest.mark.parametrize("name", ["", "a\0b", "x" * 10_000, "\ud800", None, 3])
async def test_names_that_cannot_be_used(name: Any) -> None:
    with pytest.raises(SyncSettingsValidationError, match=r"^name: "):
        Lock(name)


@pytest.mark.parametrize("primitive", [Lock, TaskLock, LeaderElection])
async def test_the_name_of_a_worker_is_not_taken_for_that_of_the_lock(primitive: Any) -> None:
    with pytest.raises(SyncSettingsValidationError, match=r"^worker: "):
        primitive("cart", worker=uuid4())


@pytest.mark.parametrize("lease", [0, -1, math.nan, math.inf, 0.0009, "1", True, None])
async def test_leases_that_cannot_be_used(lease: Any) -> None:
    with pytest.raises(SyncSettingsValidationError, match=r"^lease_duration: "):
        Lock("cart", lease_duration=lease)


@pytest.mark.parametrize("timeout", [-1, math.nan, math.inf, "1"])
async def test_timeouts_that_cannot_be_used(timeout: Any, backend: MemorySyncAdapter) -> None:
    with pytest.raises(SyncSettingsValidationError, match=r"^timeout: "):
        await Lock("cart", backend=backend).acquire(timeout)


async def test_it_finds_the_backend_of_the_open_app_on_every_call() -> None:
    lock = Lock("cart")
    with pytest.raises(NoActiveAppError):
        await lock.acquire()
    async with Grelmicro(uses=[MemorySyncAdapter()]) as micro:
        await lock.acquire()
        async with micro.override(Sync(MemorySyncAdapter())):
            assert not await lock.locked()
        assert await lock.locked()
        await lock.release()
    async with Grelmicro(uses=[MemoryProvider()]) as micro, micro.sync.lock("cart"):
        assert await lock.locked()


# From threads.


async def test_a_thread_holds_it_like_a_task(backend: MemorySyncAdapter) -> None:
    lock = Lock("cart", backend=backend)

    def work() -> list[bool]:
        with lock.from_thread as handle:
            assert handle.fencing_token > 0
            seen = [lock.from_thread.owned(), lock.from_thread.locked()]
        return [*seen, lock.from_thread.owned(), lock.from_thread.locked()]

    assert await asyncio.to_thread(work) == [True, True, False, False]
    assert not lock._holds


async def test_threads_exclude_each_other_and_tasks(backend: MemorySyncAdapter) -> None:
    lock = Lock("cart", backend=backend)
    inside = most = 0

    def in_thread() -> None:
        nonlocal inside, most
        for _ in range(20):
            with lock.from_thread:
                inside += 1
                most = max(most, inside)
                inside -= 1

    async def in_task() -> None:
        nonlocal inside, most
        for _ in range(20):
            async with lock:
                inside += 1
                most = max(most, inside)
                await asyncio.sleep(0)
                inside -= 1

    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(4) as pool:
        threads = [loop.run_in_executor(pool, in_thread) for _ in range(4)]
        await asyncio.gather(*threads, *(in_task() for _ in range(4)))
    assert (most, inside) == (1, 0)


async def test_a_new_thread_owns_nothing_of_one_that_died(backend: MemorySyncAdapter) -> None:
    lock = Lock("cart", backend=backend)

    def take() -> int:
        lock.from_thread.acquire()
        return threading.get_ident()

    def look() -> tuple[int, bool]:
        with pytest.raises(LockNotOwnedError):
            lock.from_thread.release()
        return threading.get_ident(), lock.from_thread.owned()

    def in_a_thread(function: Any) -> Any:
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(function).result()

    idents = {await asyncio.to_thread(in_a_thread, take)}
    for _ in range(5):
        ident, owned = await asyncio.to_thread(in_a_thread, look)
        idents.add(ident)
        assert not owned
    assert await lock.locked()


async def test_on_the_thread_of_the_loop_it_is_refused(backend: MemorySyncAdapter) -> None:
    lock = Lock("cart", backend=backend)
    with pytest.raises(RuntimeError, match="async"):
        lock.from_thread.acquire()
    with pytest.raises(RuntimeError, match="async"), lock.from_thread:
        pass
    assert not await lock.locked()


async def test_a_backend_that_was_never_opened_has_no_loop_for_threads() -> None:
    lock = Lock("cart", backend=MemorySyncAdapter())
    with pytest.raises(BackendNotOpenError, match="not open") as caught:
        await asyncio.to_thread(lock.from_thread.acquire)
    assert isinstance(caught.value, AttributeError)
    async with lock:  # tasks need none
        pass


async def test_errors_reach_the_thread(backend: MemorySyncAdapter) -> None:
    lock = Lock("cart", backend=backend)
    async with lock:
        with pytest.raises(WouldBlockError):
            await asyncio.to_thread(lock.from_thread.acquire_nowait)
        with pytest.raises(LockTimeoutError):
            await asyncio.to_thread(lock.from_thread.acquire, 0.01)


async def test_a_renewal_under_way_does_not_give_back_before_its_holder() -> None:
    """Its reply comes while the release is on its way over another, slower connection."""

    class Pooled(MemorySyncAdapter):
        slow = False

        async def acquire(self, *, name: str, token: str, duration: float) -> int:
            number = await super().acquire(name=name, token=token, duration=duration)
            if self.slow:
                asked.set()
                await go.wait()
            return number

        async def release(self, *, name: str, token: str) -> bool:
            if self.slow:
                self.slow = False
                go.set()
                for _ in range(20):
                    await asyncio.sleep(0)
            return await super().release(name=name, token=token)

    asked, go = asyncio.Event(), asyncio.Event()
    backend = Pooled()
    async with backend:
        async with Lock("cart", backend=backend, lease_duration=0.3):
            backend.slow = True
            await asked.wait()
        await local_of(backend).settle()
        assert not await backend.locked(name="lock:cart")
