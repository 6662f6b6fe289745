"""Answers that are late or lost, and blocks that cannot give back what they hold: nobody's lease
lasts, and nobody is inside with a lease that has ended."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from time import monotonic
from typing import Any

import pytest
from lock_fleet import Fleet

from grelmicro.sync import (
    Lock,
    LockAcquireError,
    LockLostError,
    LockReleaseError,
    LockTimeoutError,
    SyncBackendError,
    TaskLock,
)
from grelmicro.testing.proxy import FaultProxy

LEASE = 60.0
"""Seconds: far more than a test lasts, so that nothing is free by itself."""


@asynccontextmanager
async def far_away(fleet: Fleet, **settings: Any) -> AsyncGenerator[tuple[FaultProxy, Any]]:
    """A network of our own, and the backend of a replica behind it that is about to be closed."""
    async with AsyncExitStack() as stack:
        proxy = await fleet.proxy()
        url = proxy.url_for(fleet.url)
        backend = await fleet._replace(stack=stack).backend(url, **settings)
        await warm(backend)
        yield proxy, backend


async def warm(backend: Any) -> None:
    """Have connections, the table and the scripts ready: the next request does what it says."""
    once: dict[str, Any] = {"name": "warm", "token": "one"}
    for _ in range(2):
        await asyncio.gather(*(backend.acquire(**once, duration=60) for _ in range(4)))
        await asyncio.gather(*(backend.hand_over(**once, to="one", duration=60) for _ in range(4)))
    await asyncio.gather(*(backend.release(**once) for _ in range(4)))


async def held(backend: Any, name: str = "lock:cart", *, is_held: bool = True) -> None:
    """Wait until the server says that somebody holds it, or nobody."""
    async with asyncio.timeout(20):
        while await backend.locked(name=name) is not is_held:  # noqa: ASYNC110  # no event tells
            await asyncio.sleep(0.005)


# The answer comes after the lease.


async def test_an_answer_that_comes_after_the_lease(fleet: Fleet) -> None:
    near = await fleet.backend()
    async with far_away(fleet) as (proxy, far):
        proxy.stall()
        asking = asyncio.create_task(Lock("cart", backend=far, lease_duration=0.6).acquire())
        await held(near)
        async with Lock("cart", backend=near, lease_duration=LEASE) as handle:
            proxy.heal()
            with pytest.raises(LockAcquireError, match="longer than the lease"):
                await asking
            assert not handle.lost.is_set()


async def test_a_hand_over_that_comes_after_the_lease(fleet: Fleet) -> None:
    near = await fleet.backend()
    async with far_away(fleet) as (proxy, far):
        longer = Lock("cart", backend=far, lease_duration=LEASE)
        await longer.acquire()
        heir = asyncio.create_task(Lock("cart", backend=far, lease_duration=0.6).acquire())
        await far_enough_in_line(far)
        proxy.stall()
        releasing = asyncio.create_task(longer._release(next(iter(longer._holds))))
        async with Lock("cart", backend=near, lease_duration=LEASE) as handle:
            proxy.heal()
            with pytest.raises(LockAcquireError, match="longer than the lease"):
                await heir
            await releasing
            assert not handle.lost.is_set()


async def far_enough_in_line(backend: Any) -> None:
    """Wait until a waiter has asked in vain, and stands in the server's line."""
    async with asyncio.timeout(20):
        while not any(  # noqa: ASYNC110  # no event tells
            room.enlisted_until for room in backend._waiters._rooms.values()
        ):
            await asyncio.sleep(0.005)
        await asyncio.sleep(0.05)


async def test_an_extension_that_comes_after_the_lease(fleet: Fleet) -> None:
    async with far_away(fleet) as (proxy, far):
        lock = Lock("cart", backend=far, lease_duration=0.6)
        handle = await lock.acquire()
        proxy.delay(0.8)
        with pytest.raises(LockLostError):
            await lock.extend()
        assert handle.lost.is_set()


# It cannot be given back at the moment.


@pytest.mark.parametrize("how", ["cut", "stall"])
async def test_a_block_that_cannot_give_it_back(fleet: Fleet, how: str) -> None:
    near = await fleet.backend()
    async with far_away(fleet, timeout=0.3) as (proxy, far):
        lock = Lock("cart", backend=far, lease_duration=LEASE)
        await lock.__aenter__()
        if how == "cut":
            proxy.refuse()
            proxy.cut()
        else:
            proxy.stall()
        with pytest.raises(LockReleaseError):
            await lock.__aexit__(None, None, None)
        proxy.heal()
        await Lock("cart", backend=near).acquire(timeout=10)


@pytest.mark.parametrize("least", [0, 0.5])
@pytest.mark.parametrize("how", ["fails", "is cancelled"])
async def test_a_job_that_cannot_tell_that_it_is_done(fleet: Fleet, how: str, least: float) -> None:
    """It is kept no longer than it has to be, least of all for the most that it may take."""
    near = await fleet.backend()
    async with far_away(fleet) as (proxy, far):

        async def run() -> None:
            settings: dict[str, Any] = {"min_lock_seconds": least, "max_lock_seconds": LEASE}
            async with TaskLock("job", backend=far, **settings):
                proxy.refuse()
                proxy.cut()
                if how == "is cancelled":
                    asyncio.get_running_loop().call_later(0.1, running.cancel)

        running = asyncio.create_task(run())
        with pytest.raises((asyncio.CancelledError, SyncBackendError)):
            await running
        proxy.heal()
        await held(near, "tasklock:job", is_held=False)


async def test_released_again_after_it_was_cancelled(fleet: Fleet) -> None:
    async with far_away(fleet) as (proxy, far):
        lock = Lock("cart", backend=far, lease_duration=LEASE)
        await lock.acquire()
        proxy.stall()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await lock.release()
        proxy.heal()
        with pytest.raises(LockLostError):  # the server had done it: nobody holds it
            await lock.release()
        await lock.acquire(timeout=5)
        await lock.release()
        assert not await lock.locked()


async def test_a_service_that_ends_gives_back_what_was_cancelled(fleet: Fleet) -> None:
    near = await fleet.backend()
    async with far_away(fleet) as (proxy, far):
        proxy.delay(0.2)
        asking = asyncio.create_task(Lock("cart", backend=far, lease_duration=LEASE).acquire())
        await held(near)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
    assert not await near.locked(name="lock:cart")


async def test_a_service_ends_in_time_though_its_server_is_gone(own_fleet: Fleet) -> None:
    async with AsyncExitStack() as stack:
        backend = await own_fleet._replace(stack=stack).backend(timeout=0.3)
        await warm(backend)
        own_fleet.server.pause()
        asking = asyncio.create_task(Lock("cart", backend=backend, lease_duration=LEASE).acquire())
        await asyncio.sleep(0.05)
        asking.cancel()
        await asyncio.wait([asking])
        closing = monotonic()
    assert monotonic() - closing < LEASE / 4
    own_fleet.server.resume()


# A server that stands still.


@pytest.mark.parametrize("timeout", [0.05, 0.5])
async def test_a_frozen_server_keeps_nobody_for_longer_than_asked(
    own_fleet: Fleet, timeout: float
) -> None:
    """A request may take five seconds, and does for who says nothing else."""
    backend = await own_fleet.backend()
    await warm(backend)
    own_fleet.server.pause()
    try:
        calls = [
            asyncio.create_task(Lock("cart", backend=backend).acquire(timeout)) for _ in range(3)
        ]
        done, late = await asyncio.wait(calls, timeout=timeout + 2)
    finally:
        own_fleet.server.resume()
    assert not late
    assert {type(call.exception()) for call in done} == {LockTimeoutError}
    await Lock("cart", backend=backend).acquire(timeout=10)


@pytest.mark.parametrize("timeout", [0.001, 0.02])
async def test_a_lock_that_is_free_is_had_over_a_slow_network(fleet: Fleet, timeout: float) -> None:
    """Somebody who waits tries at least once, though the answer takes longer than the wait."""
    async with far_away(fleet) as (proxy, far):
        proxy.delay(0.03)
        lock = Lock("cart", backend=far)
        await lock.acquire(timeout)
        await lock.release()
