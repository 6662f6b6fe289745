"""Locks in memory answer at once, without being awaited: and are the same locks all the same."""

import asyncio
from typing import Any

import pytest

from grelmicro.errors import LockLostError, LockReentrantError
from grelmicro.sync import Lock
from grelmicro.sync.memory import MemorySyncAdapter


class Told(MemorySyncAdapter):
    """Writes down what it is asked; a class that changed `acquire` alone."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    async def acquire(self, *, name: str, token: str, duration: float) -> int:
        self.asked.append(name)
        return await super().acquire(name=name, token=token, duration=duration)


async def test_a_class_that_changes_it_is_asked() -> None:
    async with Told() as backend:
        async with Lock("a", backend=backend):
            assert backend.asked == ["lock:a"]
        await asyncio.to_thread(hold_in_a_thread, Lock("b", backend=backend))
        assert backend.asked == ["lock:a", "lock:b"]


@pytest.mark.parametrize("name", ["acquire", "release"])
async def test_an_instance_that_was_changed_is_asked(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    async with MemorySyncAdapter() as backend:
        own = getattr(backend, name)

        async def changed(**given: Any) -> Any:
            asked.append(given["name"])
            return await own(**given)

        lock = Lock("a", backend=backend)
        async with lock:
            monkeypatch.setattr(backend, name, changed)
        async with lock:
            pass
    assert asked == {"acquire": ["lock:a"], "release": ["lock:a"] * 2}[name]


def hold_in_a_thread(lock: Lock) -> None:
    with lock.from_thread as handle:
        assert handle.fencing_token > 0
        with pytest.raises(LockReentrantError), lock.from_thread:
            raise AssertionError


async def test_who_comes_does_not_overtake_who_waits() -> None:
    order: list[int] = []
    async with MemorySyncAdapter() as backend:

        async def use(number: int) -> None:
            async with Lock("a", backend=backend):
                order.append(number)

        async with Lock("a", backend=backend):
            waiting = asyncio.create_task(use(1))
            await asyncio.sleep(0)
        late = asyncio.create_task(use(2))  # the lock is free, and nobody is inside yet
        await asyncio.gather(waiting, late)
    assert order == [1, 2]


async def test_in_threads_two_are_never_inside() -> None:
    inside, most = 0, 0

    def use(lock: Lock) -> None:
        nonlocal inside, most
        for _ in range(100):
            with lock.from_thread:
                inside += 1
                most = max(most, inside)
                inside -= 1

    async with MemorySyncAdapter() as backend:
        lock = Lock("a", backend=backend)
        await asyncio.gather(*(asyncio.to_thread(use, lock) for _ in range(4)))
    assert (inside, most) == (0, 1)


@pytest.mark.parametrize("in_a_thread", [False, True])
async def test_a_lost_lock_is_told_of_at_the_end_of_the_block(in_a_thread: bool) -> None:
    async with MemorySyncAdapter() as backend:
        lock = Lock("a", backend=backend)

        def lose() -> None:
            (lease,) = backend._leases.values()
            backend._leases.clear()
            assert lease[1] > 0

        def in_thread() -> None:
            with pytest.raises(LockLostError), lock.from_thread:
                lose()

        if in_a_thread:
            await asyncio.to_thread(in_thread)
        else:
            with pytest.raises(LockLostError):
                async with lock:
                    lose()
        async with lock as handle:  # nothing is left of it
            assert not handle.lost.is_set()
