"""Locks on a real Redis: held by one, told when lost, given back when nobody wants them."""

import asyncio
from collections import Counter
from typing import Any

import pytest

from grelmicro.providers.redis import RedisProvider
from grelmicro.sync import Lock, LockLostError, LockNotOwnedError, LockTimeoutError, TaskLock
from grelmicro.sync._local import local_of
from grelmicro.sync.redis import RedisSyncAdapter
from grelmicro.testing.proxy import FaultProxy
from grelmicro.testing.servers import RedisCluster, redis_cluster


@pytest.fixture
async def backend(provider: RedisProvider, redis_prefix: str) -> RedisSyncAdapter:
    return provider.sync(prefix=redis_prefix)


async def test_one_holder_at_a_time_in_two_replicas(redis_url: str, redis_prefix: str) -> None:
    inside = most = 0
    done: Counter[int] = Counter()

    async def work(backend: RedisSyncAdapter, number: int) -> None:
        nonlocal inside, most
        for _ in range(5):
            async with Lock("cart", backend=backend):
                inside += 1
                most = max(most, inside)
                await asyncio.sleep(0.001)
                inside -= 1
                done[number] += 1

    async with RedisProvider(redis_url) as one, RedisProvider(redis_url) as two:
        backends = [one.sync(prefix=redis_prefix), two.sync(prefix=redis_prefix)]
        await asyncio.gather(*(work(backends[number % 2], number) for number in range(16)))
    assert most == 1
    assert set(done.values()) == {5}
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_numbers_rise_even_over_a_flush(backend: RedisSyncAdapter, other: Any) -> None:
    numbers = []
    lock = Lock("cart", backend=backend)
    for _ in range(3):
        async with lock as handle:
            numbers.append(handle.fencing_token)
        for key in other.scan_iter(f"{backend._prefix}*"):
            other.delete(key)
    assert numbers == sorted({*numbers})


async def test_the_holder_again_gets_its_own_number(backend: RedisSyncAdapter) -> None:
    first = await backend.acquire(name="lock:a", token="t", duration=60)
    assert await backend.acquire(name="lock:a", token="t", duration=60) == first
    assert await backend.acquire(name="lock:a", token="other", duration=60) == 0
    assert await backend.owned(name="lock:a", token="t")
    assert not await backend.owned(name="lock:a", token="other")
    assert not await backend.release(name="lock:a", token="other")
    assert await backend.locked(name="lock:a")
    assert await backend.release(name="lock:a", token="t")
    assert not await backend.locked(name="lock:a")


async def test_a_lease_that_ended_belongs_to_the_next_holder(backend: RedisSyncAdapter) -> None:
    lock = Lock("cart", backend=backend, lease_duration=0.05)
    late = await lock.acquire()
    next_one = await asyncio.create_task(lock.acquire(10))
    assert next_one.fencing_token > late.fencing_token
    with pytest.raises(LockLostError):
        await lock.release()
    with pytest.raises(LockNotOwnedError):
        await lock.release()


async def test_a_deleted_lease_is_told_and_not_taken_anew(
    backend: RedisSyncAdapter, other: Any
) -> None:
    lock = Lock("cart", backend=backend, lease_duration=0.3)
    handle = await lock.__aenter__()
    other.delete(f"{backend._prefix}lock:cart")
    async with asyncio.timeout(10):
        await handle.lost.wait()
    with pytest.raises(LockLostError):
        await lock.__aexit__(None, None, None)
    await local_of(backend).settle()
    assert not await lock.locked()


async def test_cancelled_after_the_server_granted_it(
    fault_proxy: FaultProxy, redis_url: str, redis_prefix: str, other: Any
) -> None:
    async with fault_proxy as proxy, RedisProvider(proxy.url_for(redis_url)) as provider:
        backend = provider.sync(prefix=redis_prefix)
        async with Lock("warm", backend=backend):
            pass
        proxy.stall()
        asking = asyncio.create_task(Lock("cart", backend=backend).acquire())
        async with asyncio.timeout(10):
            while not other.exists(f"{redis_prefix}lock:cart"):  # noqa: ASYNC110  # no event tells
                await asyncio.sleep(0.005)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        proxy.heal()
        async with asyncio.timeout(10):
            await Lock("cart", backend=backend).acquire()
        await local_of(backend).settle()


@pytest.mark.parametrize("timeout", [0, 0.05, 0.3])
async def test_a_timeout_leaves_nothing_behind(timeout: float, backend: RedisSyncAdapter) -> None:
    async with Lock("cart", backend=backend):
        with pytest.raises(LockTimeoutError):
            await Lock("cart", backend=backend).acquire(timeout)
    assert not local_of(backend).queues.lines
    assert await Lock("cart", backend=backend).acquire(timeout)


async def test_a_job_is_kept_for_the_rest_of_its_least_time(
    backend: RedisSyncAdapter, other: Any
) -> None:
    async with TaskLock("job", min_lock_seconds=30, max_lock_seconds=3600, backend=backend):
        pass
    assert 20_000 < other.pttl(f"{backend._prefix}tasklock:job") <= 30_000


async def test_a_thread_holds_it_like_a_task(redis_url: str, redis_prefix: str) -> None:
    provider = RedisProvider(redis_url)
    async with provider, provider.sync(prefix=redis_prefix) as backend:
        lock = Lock("cart", backend=backend)

        def work() -> bool:
            with lock.from_thread:
                return lock.from_thread.owned()

        assert await asyncio.to_thread(work)
        assert not await lock.locked()


async def test_locks_of_a_cluster_have_their_counter_beside_them() -> None:
    with redis_cluster() as cluster:
        await use_all_buckets(cluster)


async def use_all_buckets(cluster: RedisCluster) -> None:
    async with RedisProvider(cluster.url) as provider:
        backend = provider.sync(prefix="p:")
        locks = [Lock(f"name {number}", backend=backend) for number in range(100)]
        first = [await lock.acquire() for lock in locks]
        for lock in locks:
            await lock.release()
        assert all(handle.fencing_token > 0 for handle in first)
        counters = [name async for names in provider.scan("p:") for name in names]
        assert 0 < len(counters) <= 64
