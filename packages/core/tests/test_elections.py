"""`TaskLock` and `LeaderElection` in memory."""

import asyncio
import math
from collections.abc import Callable
from time import monotonic
from typing import Any

import pytest

from grelmicro.errors import OutOfContextError
from grelmicro.sync import (
    LeaderElection,
    LockLostError,
    LockNotOwnedError,
    LockReentrantError,
    Sync,
    SyncSettingsValidationError,
    TaskLock,
    WouldBlockError,
)
from grelmicro.sync.memory import MemorySyncAdapter

QUICK: dict[str, Any] = {"lease_duration": 0.3, "renew_deadline": 0.2, "retry_interval": 0.02}


async def until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not true():  # noqa: ASYNC110  # no event tells
            await asyncio.sleep(0.002)


async def test_a_job_is_done_by_one_and_not_again_too_soon() -> None:
    backend = MemorySyncAdapter()
    done: list[int] = []

    async def replica(number: int) -> None:
        try:
            async with TaskLock("job", min_lock_seconds=60, backend=backend):
                done.append(number)
        except WouldBlockError:
            pass

    await asyncio.gather(*(replica(number) for number in range(10)))
    await replica(11)
    assert done == [0]


async def test_a_job_without_a_least_time_may_be_done_at_once() -> None:
    lock = TaskLock("job", min_lock_seconds=0, backend=MemorySyncAdapter())
    numbers = []
    for _ in range(3):
        async with lock as handle:
            numbers.append(handle.fencing_token)
            with pytest.raises(LockReentrantError):
                await lock.__aenter__()
    assert numbers == sorted({*numbers})


async def test_the_rest_of_the_least_time_is_all_that_is_kept() -> None:
    backend = MemorySyncAdapter()
    async with TaskLock("job", min_lock_seconds=0.05, max_lock_seconds=60, backend=backend):
        pass
    assert await backend.locked(name="tasklock:job")
    async with asyncio.timeout(10):
        while await backend.locked(name="tasklock:job"):  # noqa: ASYNC110  # no event tells
            await asyncio.sleep(0.005)


async def test_a_job_that_takes_too_long_is_told_so() -> None:
    backend = MemorySyncAdapter()
    lock = TaskLock("job", min_lock_seconds=0, max_lock_seconds=0.02, backend=backend)
    await lock.__aenter__()
    await until(lambda: backend._leases["tasklock:job"][2] <= monotonic())
    with pytest.raises(LockNotOwnedError):
        await lock.__aexit__(None, None, None)
    async with lock:  # and it can be had again
        pass


async def test_a_job_in_a_thread() -> None:
    async with MemorySyncAdapter() as backend:
        lock = TaskLock("job", min_lock_seconds=60, backend=backend)

        def work() -> int:
            with lock.from_thread as handle:
                return handle.fencing_token

        assert await asyncio.to_thread(work) > 0
        with pytest.raises(WouldBlockError):
            await asyncio.to_thread(work)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"min_lock_seconds": 61}, "min_lock_seconds"),
        ({"min_lock_seconds": -1}, "min_lock_seconds"),
        ({"max_lock_seconds": math.inf}, "max_lock_seconds"),
    ],
)
async def test_times_of_jobs_that_cannot_be_used(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(SyncSettingsValidationError, match=f"^{named}: "):
        TaskLock("job", **settings)


# Leaders.


async def test_one_leads_and_hands_over_at_once_when_it_stops() -> None:
    backend = MemorySyncAdapter()
    elections = [LeaderElection("l", backend=backend, **QUICK) for _ in range(3)]
    tasks = [asyncio.create_task(election()) for election in elections]
    numbers: list[int] = []
    for _ in range(3):
        await until(lambda: any(election.is_leader() for election in elections))
        leaders = [number for number, each in enumerate(elections) if each.is_leader()]
        assert len(leaders) == 1
        numbers.append(elections[leaders[0]].fencing_token)
        tasks[leaders[0]].cancel()
        await asyncio.wait([tasks[leaders[0]]])
        assert not elections[leaders[0]].is_leader()
        assert not elections[leaders[0]].is_running()
    assert numbers == sorted({*numbers})
    assert not await backend.locked(name="leader:l")


async def test_a_leader_that_cannot_renew_is_none_before_its_lease_ends() -> None:
    backend = MemorySyncAdapter()
    election = LeaderElection("l", backend=backend, **QUICK)
    async with election:
        assert election.is_leader()
        backend._leases.clear()
        other = await backend.acquire(name="leader:l", token="other", duration=60)
        async with asyncio.timeout(10):
            await election.wait_lose_leader()
        assert not election.is_leader()
        assert election.fencing_token == 0
        assert other > 0
    assert await backend.owned(name="leader:l", token="other")  # what is another's stays


async def test_guarded_work_ends_with_the_leadership() -> None:
    backend = MemorySyncAdapter()
    election = Sync(backend).leader_election("l", **QUICK)
    with pytest.raises(LockNotOwnedError):
        async with election.guard():
            pass
    async with election:
        async with election.guard() as token:
            assert token == election.fencing_token > 0

        async def work() -> None:
            async with election.guard():
                await backend.acquire(name="other", token="t", duration=1)
                backend._leases.clear()
                await backend.acquire(name="leader:l", token="other", duration=60)
                await asyncio.sleep(30)

        with pytest.raises(LockLostError):
            await asyncio.create_task(work())


async def test_it_runs_once() -> None:
    async with LeaderElection("l", backend=MemorySyncAdapter(), **QUICK) as election:
        assert election.is_running()
        with pytest.raises(OutOfContextError, match="runs already"):
            await election()
        assert election.is_leader()
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_an_election_outlives_a_backend_that_fails(caplog: pytest.LogCaptureFixture) -> None:
    class Faulty(MemorySyncAdapter):
        fails = True

        async def acquire(self, *, name: str, token: str, duration: float) -> int:
            if self.fails:
                raise ConnectionError("gone")
            return await super().acquire(name=name, token=token, duration=duration)

    backend = Faulty()
    election = LeaderElection("l", backend=backend, **QUICK)
    task = asyncio.create_task(election())
    await until(lambda: "fails" in caplog.text)
    backend.fails = False
    async with asyncio.timeout(10):
        await election.wait_for_leader()
    backend.fails = True
    async with asyncio.timeout(10):
        await election.wait_lose_leader()
    task.cancel()
    await asyncio.wait([task])
    assert caplog.text.count("it goes on") == 1  # not once a try


@pytest.mark.parametrize("settings", [{"renew_deadline": 15}, {"retry_interval": 10}])
async def test_times_of_elections_that_do_not_go_together(settings: dict[str, Any]) -> None:
    with pytest.raises(SyncSettingsValidationError, match=r"^renew_deadline: "):
        LeaderElection("l", **settings)


async def test_a_job_that_was_begun_again_after_its_most_ends_twice() -> None:
    job = TaskLock("job", backend=MemorySyncAdapter(), min_lock_seconds=0, max_lock_seconds=0.02)

    async def begin_again() -> None:
        async with job:
            await asyncio.sleep(0.03)
            async with job:
                pass

    with pytest.raises(LockNotOwnedError):
        await begin_again()


async def test_a_renewal_that_comes_too_late_is_a_loss() -> None:
    """Whoever looked was told that nobody leads: the next leadership has a number of its own."""

    class Late(MemorySyncAdapter):
        go: asyncio.Event | None = None

        async def acquire(self, *, name: str, token: str, duration: float) -> int:
            if self.go is not None:
                await self.go.wait()
            return await super().acquire(name=name, token=token, duration=duration)

    backend = Late()
    election = LeaderElection(
        "boss", backend=backend, lease_duration=20, renew_deadline=0.1, retry_interval=0.02
    )
    async with election:
        number = election.fencing_token
        backend.go = asyncio.Event()
        async with asyncio.timeout(5):
            await election.wait_lose_leader()
        backend.go.set()
        async with asyncio.timeout(5):
            await election.wait_for_leader()
        assert election.fencing_token > number


async def test_who_enters_it_twice_does_not_keep_it_running() -> None:
    election = LeaderElection("boss", backend=MemorySyncAdapter())

    async with election:
        with pytest.raises(OutOfContextError, match="runs already"):
            await election.__aenter__()
        assert election.is_leader()
    assert not election.is_running()
    async with asyncio.timeout(5), election:  # it was handed over
        pass


async def test_who_gives_up_entering_it_leaves_nothing_behind() -> None:
    backend = MemorySyncAdapter()
    async with LeaderElection("boss", backend=backend):
        before = asyncio.all_tasks()
        entering = asyncio.create_task(LeaderElection("boss", backend=backend).__aenter__())
        await asyncio.sleep(0.02)
        entering.cancel()
        await asyncio.wait([entering])
        await until(lambda: asyncio.all_tasks() == before)


async def test_cancelled_once_more_while_it_is_handed_over() -> None:
    class Slow(MemorySyncAdapter):
        gives_back = asyncio.Event()

        async def release(self, *, name: str, token: str) -> bool:
            self.gives_back.set()
            await asyncio.sleep(0.02)
            return await super().release(name=name, token=token)

    backend = Slow()
    running = asyncio.create_task(LeaderElection("boss", backend=backend)())
    await until(lambda: backend._leases)
    running.cancel()
    await backend.gives_back.wait()
    running.cancel()
    await asyncio.wait([running])
    await until(lambda: not backend._leases)


async def test_a_guarded_block_that_was_ended_is_not_cancelled_any_more() -> None:
    backend = MemorySyncAdapter()
    election = LeaderElection(
        "boss", backend=backend, lease_duration=2, renew_deadline=1, retry_interval=0.02
    )

    async def lead() -> None:
        async with election.guard():
            backend._leases.clear()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                raise KeyError("what the block makes of it") from None

    async with election:
        task = asyncio.current_task()
        assert task is not None
        with pytest.raises(KeyError):
            await lead()
        assert not task.cancelling()
        async with asyncio.timeout(5):
            await election.wait_for_leader()
        with pytest.raises(LockLostError):
            await _leads_until_it_is_lost(election, backend)
        assert not task.cancelling()


async def _leads_until_it_is_lost(election: LeaderElection, backend: MemorySyncAdapter) -> None:
    async with election.guard():
        backend._leases.clear()
        await asyncio.Event().wait()
