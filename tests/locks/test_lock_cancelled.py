"""What is cancelled, late or cut off halfway leaves no lock that nobody holds, nor two holders."""

import asyncio
from typing import Any

import pytest

from grelmicro.sync import Lock, LockAcquireError, LockLostError, LockReleaseError, SyncBackendError, TaskLock
from grelmicro.sync._local import local_of

LEASE = 60.0
"""Seconds: far more than a test lasts, so that nothing is free by itself."""


async def warm(backend: Any) -> None:
    """Have connections, the table and the scripts ready: the next request does what it says."""
    once: dict[str, Any] = {"name": "warm", "token": "one"}
    for _ in range(2):
        await asyncio.gather(*(backend.acquire(**once, duration=60) for _ in range(4)))
        await asyncio.gather(
            *(backend.hand_over(**once, to="one", duration=60) for _ in range(4))
        )
    await asyncio.gather(*(backend.release(**once) for _ in range(4)))


async def test_cancelled_while_the_answer_is_on_its_way(fleet: Any, until: Any) -> None:
    async with fleet.proxy() as proxy, fleet.replica(proxy.url_for(fleet.url)) as backend:
        await warm(backend)
        proxy.stall()
        asking = asyncio.create_task(Lock("cart", backend=backend).acquire())
        await until(lambda: fleet.holder("cart"), "the server grants it")
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        proxy.heal()
        async with fleet.replica() as other, asyncio.timeout(10):
            await Lock("cart", backend=other, lease_duration=LEASE).acquire()


async def test_cancelled_at_the_end_of_a_service(fleet: Any, until: Any) -> None:
    async with fleet.proxy() as proxy:
        async with fleet.replica(proxy.url_for(fleet.url)) as backend:
            await warm(backend)
            proxy.delay(0.2)
            asking = asyncio.create_task(Lock("cart", backend=backend).acquire())
            await until(lambda: fleet.holder("cart"), "the server grants it")
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
        assert await fleet.holder("cart") is None


async def test_an_answer_that_comes_after_the_lease(fleet: Any, until: Any) -> None:
    async with (
        fleet.proxy() as proxy,
        fleet.replica(proxy.url_for(fleet.url)) as slow,
        fleet.replica() as backend,
    ):
        await warm(slow)
        proxy.stall()
        lock = Lock("cart", backend=slow, lease_duration=0.2)
        asking = asyncio.create_task(lock.acquire())
        await until(lambda: fleet.holder("cart"), "the server grants it")
        async with Lock("cart", backend=backend, lease_duration=LEASE) as held:
            proxy.heal()
            with pytest.raises(LockAcquireError, match="longer than the lease"):
                await asking
            assert not held.lost.is_set()


async def test_an_extension_that_comes_after_the_lease(fleet: Any) -> None:
    async with fleet.proxy() as proxy, fleet.replica(proxy.url_for(fleet.url)) as slow:
        await warm(slow)
        lock = Lock("cart", backend=slow, lease_duration=0.2)
        handle = await lock.acquire()
        proxy.delay(0.4)
        with pytest.raises(LockLostError):
            await lock.extend()
        assert handle.lost.is_set()


async def test_a_hand_over_that_comes_after_the_lease(fleet: Any, until: Any) -> None:
    async with (
        fleet.proxy() as proxy,
        fleet.replica(proxy.url_for(fleet.url)) as slow,
        fleet.replica() as backend,
    ):
        await warm(slow)
        lock = Lock("cart", backend=slow, lease_duration=0.2)
        longer = Lock("cart", backend=slow, lease_duration=LEASE)
        await longer.acquire()
        heir = asyncio.create_task(lock.acquire())
        await until(lambda: fleet.queue("cart"), "there is an heir")
        proxy.stall()
        releasing = asyncio.create_task(longer._release(asyncio.current_task()))
        async with Lock("cart", backend=backend, lease_duration=LEASE) as held:
            proxy.heal()
            with pytest.raises(LockAcquireError, match="longer than the lease"):
                await heir
            await releasing
            assert not held.lost.is_set()


@pytest.mark.parametrize("how", ["cut", "stall"])
async def test_a_block_that_cannot_give_it_back(fleet: Any, how: str) -> None:
    async with (
        fleet.proxy() as proxy,
        fleet.replica(proxy.url_for(fleet.url), timeout=0.3) as backend,
        fleet.replica() as other,
    ):
        await warm(backend)
        with pytest.raises(LockReleaseError):
            async with Lock("cart", backend=backend, lease_duration=LEASE):
                if how == "cut":
                    proxy.refuse()
                    proxy.cut()
                else:
                    proxy.stall()
        proxy.heal()
        async with asyncio.timeout(10):
            await Lock("cart", backend=other).acquire()


async def test_cancelled_while_a_block_gives_it_back(fleet: Any, until: Any) -> None:
    async with (
        fleet.proxy() as proxy,
        fleet.replica(proxy.url_for(fleet.url)) as backend,
        fleet.replica() as other,
    ):
        await warm(backend)

        async def hold() -> None:
            async with Lock("cart", backend=backend, lease_duration=LEASE):
                proxy.stall()

        holding = asyncio.create_task(hold())
        await until(lambda: proxy._links and not proxy._flowing.is_set(), "it gives it back")
        await asyncio.sleep(0.05)
        holding.cancel()
        with pytest.raises(asyncio.CancelledError):
            await holding
        proxy.heal()
        async with asyncio.timeout(10):
            await Lock("cart", backend=other).acquire()


async def test_cancelled_while_releasing(fleet: Any, until: Any) -> None:
    async with fleet.proxy() as proxy, fleet.replica(proxy.url_for(fleet.url)) as backend:
        lock = Lock("cart", backend=backend, lease_duration=LEASE)
        await lock.acquire()
        proxy.stall()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await lock.release()
        proxy.heal()
        with pytest.raises(LockLostError):  # the server had done it: nobody holds it
            await lock.release()
        assert await fleet.holder("cart") is None
        await lock.acquire(timeout=5)
        await lock.release()


@pytest.mark.parametrize("lost", range(3))
async def test_an_answer_is_lost(fleet: Any, lost: int) -> None:
    """Told that one has it, if and only if the server says so, whatever is sent again."""
    async with fleet.proxy() as proxy, fleet.replica(proxy.url_for(fleet.url)) as backend:
        await warm(backend)
        lock = Lock("cart", backend=backend, lease_duration=LEASE)
        proxy.cut_after(lost * 4)
        try:
            await lock.acquire(timeout=5)
        except LockAcquireError:
            await local_of(backend).settle()
            assert await fleet.holder("cart") is None
        else:
            hold = lock._holds[asyncio.current_task()]
            assert await fleet.holder("cart") == hold.token
            assert await lock.owned()
            await lock.release()


@pytest.mark.parametrize("least", [0, 0.5])
@pytest.mark.parametrize("how", ["fails", "is cancelled"])
async def test_a_job_that_cannot_tell_that_it_is_done(fleet: Any, how: str, least: float) -> None:
    """It is kept no longer than it has to be, least of all for the most that it may take."""
    async with fleet.proxy() as proxy, fleet.replica(proxy.url_for(fleet.url)) as backend:
        await warm(backend)

        async def run() -> None:
            settings = {"min_lock_seconds": least, "max_lock_seconds": LEASE}
            async with TaskLock("job", backend=backend, **settings):
                proxy.refuse()
                proxy.cut()
                asyncio.get_running_loop().call_later(0.1, about_to_end)

        def about_to_end() -> None:
            if how == "is cancelled":
                running.cancel()

        running = asyncio.create_task(run())
        with pytest.raises((asyncio.CancelledError, SyncBackendError)):
            await running
        proxy.heal()
        async with fleet.replica() as other, asyncio.timeout(10):
            while await other.locked(name="tasklock:job"):  # noqa: ASYNC110  # no event tells
                await asyncio.sleep(0.01)
