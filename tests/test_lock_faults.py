"""Locks on real servers that stop, forget, or answer late."""

import asyncio
import time
from collections.abc import Callable
from time import monotonic
from typing import Any

import pytest
from lock_fleet import Fleet

from grelmicro.sync import (
    LeaderElection,
    Lock,
    LockAcquireError,
    LockLostError,
    LockNotOwnedError,
    LockTimeoutError,
)
from grelmicro.sync._local import local_of


async def had_within(backend: Any, seconds: float, name: str = "cart") -> None:
    """See that somebody else can have the lock soon."""
    handle: Any = await Lock(name, backend=backend).acquire(timeout=seconds)
    assert handle.fencing_token
    await backend.release(name=f"lock:{name}", token=handle.token)


async def until(true: Callable[[], object]) -> None:
    deadline = monotonic() + 20
    while not true():
        assert monotonic() < deadline
        await asyncio.sleep(0.005)


# Cancelled, while the server does it anyway.


@pytest.mark.parametrize("pause", [0.0, 0.01, 0.05])
async def test_cancelled_while_the_answer_is_on_its_way(pause: float, fleet: Fleet) -> None:
    proxy = await fleet.proxy()
    near, far = await fleet.backend(), await fleet.backend(proxy.url_for(fleet.url))
    await had_within(far, 5)
    proxy.delay(0.1)
    task = asyncio.create_task(Lock("cart", backend=far, lease_duration=60).acquire())
    await asyncio.sleep(pause)
    task.cancel()
    await asyncio.wait([task])
    await had_within(near, 5)


async def test_cancelled_while_it_is_given_back(fleet: Fleet) -> None:
    proxy = await fleet.proxy()
    near, far = await fleet.backend(), await fleet.backend(proxy.url_for(fleet.url))

    async def hold() -> None:
        async with Lock("cart", backend=far, lease_duration=60):
            proxy.delay(0.1)

    task = asyncio.create_task(hold())
    async with asyncio.timeout(10):
        while not await near.locked(name="lock:cart"):
            pass
    await asyncio.sleep(0.05)
    task.cancel()
    await asyncio.wait([task])
    await had_within(near, 5)


async def test_cancelled_while_it_is_handed_over(fleet: Fleet) -> None:
    proxy = await fleet.proxy()
    near, far = await fleet.backend(), await fleet.backend(proxy.url_for(fleet.url))
    leaving = asyncio.Event()

    async def hold() -> None:
        async with Lock("cart", backend=far):
            await leaving.wait()

    holder = asyncio.create_task(hold())
    async with asyncio.timeout(10):
        while not await near.locked(name="lock:cart"):
            pass
    heir = asyncio.create_task(Lock("cart", backend=far).acquire())
    await until(lambda: local_of(far).queues.fronts)
    proxy.delay(0.1)
    leaving.set()
    for task in (holder, heir):
        await asyncio.sleep(0.03)
        task.cancel()
        await asyncio.wait([task])
    await had_within(near, 15)


async def test_the_heir_gives_up_while_it_is_handed_over(fleet: Fleet) -> None:
    proxy = await fleet.proxy()
    near, far = await fleet.backend(), await fleet.backend(proxy.url_for(fleet.url))
    holder = Lock("cart", backend=far)
    await holder.acquire()
    waiting = asyncio.create_task(Lock("cart", backend=far).acquire())
    await until(lambda: local_of(far).queues.fronts)
    proxy.delay(0.1)
    releasing = asyncio.create_task(holder._release(next(iter(holder._holds))))
    await asyncio.sleep(0.03)
    waiting.cancel()
    await asyncio.wait([waiting])
    await releasing
    proxy.heal()
    await had_within(near, 5)


@pytest.mark.parametrize("fault", ["cut", "half_close"])
async def test_a_reply_that_is_lost(fault: str, fleet: Fleet) -> None:
    """Success is reported if and only if the server has this owner's token."""
    proxy = await fleet.proxy()
    near, far = await fleet.backend(), await fleet.backend(proxy.url_for(fleet.url))
    await had_within(far, 5)
    for _ in range(5):
        proxy.delay(0.05)
        task = asyncio.create_task(_taken_and_owned(far, near))
        await asyncio.sleep(0.03)
        getattr(proxy, fault)()
        proxy.heal()
        try:
            await task
        except LockAcquireError:
            await had_within(near, 5)


async def _taken_and_owned(far: Any, near: Any) -> None:
    lock = Lock("cart", backend=far, lease_duration=60)
    handle: Any = await lock.acquire()
    assert await near.owned(name="lock:cart", token=handle.token)
    await lock.release()


# The server forgets, stops, comes back.


async def test_a_holder_is_told_when_the_server_forgets(own_fleet: Fleet) -> None:
    backend = await own_fleet.backend()
    lock = Lock("cart", backend=backend, lease_duration=0.6)

    async def hold() -> None:
        async with lock as handle:
            await own_fleet.remove_all()
            started = monotonic()
            async with asyncio.timeout(10):
                await handle.lost.wait()
            assert monotonic() - started < 0.6  # a renewal is due after 0.2

    with pytest.raises(LockLostError):
        await hold()
    await had_within(backend, 5)


async def test_a_server_that_is_started_anew(own_fleet: Fleet) -> None:
    """What has no disk has forgotten, and the holder is told; a table has not."""
    backend = await own_fleet.backend()
    numbers = []
    try:
        async with Lock("cart", backend=backend, lease_duration=6) as handle:
            numbers.append(handle.fencing_token)
            await asyncio.to_thread(own_fleet.server.restart)
            if own_fleet.kind == "redis":
                async with asyncio.timeout(10):
                    await handle.lost.wait()
            else:
                await asyncio.sleep(3)  # it is renewed every 2 s
                assert not handle.lost.is_set()
                holding: Any = handle
                assert await backend.owned(name="lock:cart", token=holding.token)
    except LockLostError:
        assert own_fleet.kind == "redis"
    async with Lock("cart", backend=backend) as handle:
        numbers.append(handle.fencing_token)
    assert numbers == sorted({*numbers})


async def test_a_server_that_stands_still_for_two_leases(own_fleet: Fleet) -> None:
    near = await own_fleet.backend(timeout=0.5)
    other = await own_fleet.backend(timeout=0.5)
    first: list[int] = []

    async def hold() -> None:
        async with Lock("cart", backend=near, lease_duration=0.6) as handle:
            first.append(handle.fencing_token)
            own_fleet.server.pause()
            started = monotonic()
            try:
                async with asyncio.timeout(10):
                    await handle.lost.wait()
                assert monotonic() - started < 1.0  # by its own clock
                await asyncio.sleep(0.6)
                asked = monotonic()
                with pytest.raises((LockAcquireError, LockTimeoutError)):
                    await Lock("cart", backend=other).acquire(timeout=0.5)
                assert monotonic() - asked < 5
            finally:
                own_fleet.server.resume()

    with pytest.raises(LockLostError):
        await hold()
    async with asyncio.timeout(20):
        handles = await asyncio.gather(
            *(Lock("cart", backend=each).acquire(timeout=3) for each in (near, other, near)),
            return_exceptions=True,
        )
        held = [handle for handle in handles if not isinstance(handle, BaseException)]
        assert [handle.fencing_token > first[0] for handle in held] == [True]


async def test_a_leader_whose_server_is_gone_leads_no_more(own_fleet: Fleet) -> None:
    election = LeaderElection(
        "boss",
        backend=await own_fleet.backend(timeout=0.3),
        lease_duration=1.5,
        renew_deadline=1.0,
        retry_interval=0.1,
        backend_timeout=0.3,
    )
    async with election:
        own_fleet.server.pause()
        started = monotonic()
        try:
            async with asyncio.timeout(10):
                await election.wait_lose_leader()
            assert monotonic() - started < 1.5
            assert not election.is_leader()
            assert election.fencing_token == 0
        finally:
            own_fleet.server.resume()
        async with asyncio.timeout(10):
            await election.wait_for_leader()


async def test_a_loop_that_was_blocked_for_longer_than_the_lease(fleet: Fleet) -> None:
    near, other = await fleet.backend(), await fleet.backend()

    async def hold() -> None:
        async with Lock("cart", backend=near, lease_duration=0.4) as handle:
            time.sleep(0.6)  # noqa: ASYNC251  # that is the fault
            await asyncio.sleep(0.05)
            assert handle.lost.is_set()
            await Lock("cart", backend=other).acquire(timeout=5)

    with pytest.raises(LockLostError):
        await hold()
    assert await other.locked(name="lock:cart")


async def test_clients_whose_clocks_are_wrong(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    ahead, right = await fleet.backend(), await fleet.backend()
    true = time.time
    monkeypatch.setattr(time, "time", lambda: true() + 3600)
    lock = Lock("cart", backend=ahead, lease_duration=0.3)
    number = (await lock.acquire()).fencing_token
    monkeypatch.setattr(time, "time", lambda: true() - 3600)
    assert await right.acquire(name="lock:cart", token="other", duration=60) == 0
    handle = await Lock("cart", backend=right).acquire(timeout=5)
    assert handle.fencing_token > number
    monkeypatch.setattr(time, "time", lambda: true() + 7200)
    assert await ahead.acquire(name="lock:cart", token="other", duration=60) == 0


# Leases that ended, and waiting.


async def test_one_lock_object_whose_lease_ended(fleet: Fleet) -> None:
    lock = Lock("cart", backend=await fleet.backend(), lease_duration=0.1)
    first = await lock.acquire()
    taken, done = asyncio.Event(), asyncio.Event()

    async def next_one() -> Any:
        handle = await Lock.acquire(lock, timeout=5)
        await lock.extend()
        taken.set()
        await done.wait()
        assert await lock.owned()
        await lock.release()
        return handle

    task = asyncio.create_task(next_one())
    await taken.wait()
    with pytest.raises(LockNotOwnedError):
        await lock.release()
    done.set()
    assert (await task).fencing_token > first.fencing_token
    again = await lock.acquire(timeout=5)  # the same task, after its own lease ended
    assert again.fencing_token > first.fencing_token


@pytest.mark.parametrize("timeout", [0, 0.05, 0.5])
async def test_timeouts_leave_nothing_behind(timeout: float, fleet: Fleet) -> None:
    holder, other = await fleet.backend(), await fleet.backend()
    await Lock("cart", backend=holder).acquire()
    started = monotonic()
    results = await asyncio.gather(
        *(Lock("cart", backend=other).acquire(timeout=timeout) for _ in range(20)),
        return_exceptions=True,
    )
    assert {type(result) for result in results} == {LockTimeoutError}
    assert timeout * 0.9 <= monotonic() - started < timeout + 3
    assert not local_of(other).queues.lines
    assert not local_of(other).queues.fronts
    assert not other._waiters
    deadline = monotonic() + 5
    while await fleet.places("lock:cart"):
        assert monotonic() < deadline, "a place in the server's line"
    assert await Lock("free", backend=other).acquire(timeout=timeout)


async def test_a_waiter_that_was_told_and_left_holds_nobody_up(fleet: Fleet) -> None:
    holder, leaving, other = [await fleet.backend() for _ in range(3)]
    lock = Lock("cart", backend=holder)
    await lock.acquire()
    waiting = asyncio.create_task(Lock("cart", backend=leaving).acquire())
    await asyncio.sleep(0.1)
    waiting.cancel()
    await asyncio.wait([waiting])
    await lock.release()
    await had_within(other, 2)


async def test_who_leaves_a_nested_context_hears_still(fleet: Fleet) -> None:
    """An app and a test may both have entered the adapter; the outer one uses it on."""
    holder, other = await fleet.backend(), await fleet.backend()
    lock = Lock("cart", backend=holder)
    await lock.acquire()
    waiting = asyncio.create_task(Lock("cart", backend=other, retry_interval=60).acquire())
    deadline = monotonic() + 10
    while not await fleet.places("lock:cart"):
        assert monotonic() < deadline
    async with other:
        pass
    await lock.release()
    async with asyncio.timeout(5):
        await waiting


async def test_a_process_that_died_in_line_holds_nobody_up(fleet: Fleet) -> None:
    """Its place is told once, and kept for a moment."""
    holder, dead, other = [await fleet.backend() for _ in range(3)]
    lock = Lock("cart", backend=holder)
    await lock.acquire()
    await dead._waiters._enlist("lock:cart")
    waiting = asyncio.create_task(Lock("cart", backend=other).acquire())
    await asyncio.sleep(0.1)
    await lock.release()
    async with asyncio.timeout(2):
        await waiting
