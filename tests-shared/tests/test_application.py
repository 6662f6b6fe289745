"""Fixtures for applications: an open app on memory, and its clock."""

import asyncio
import math

import pytest

from grelmicro import Grelmicro
from grelmicro.cache import TTLCache, cached
from grelmicro.sync import Lock
from grelmicro.testing.application import VirtualClock


async def test_a_cached_value_ends_when_the_clock_is_advanced(
    virtual_clock: VirtualClock, micro: Grelmicro
) -> None:
    calls = 0

    @cached(TTLCache(ttl=60))
    async def price() -> bytes:
        nonlocal calls
        calls += 1
        return b"%d" % calls

    assert [await price(), await price()] == [b"1", b"1"]
    virtual_clock.advance(59)
    assert await price() == b"1"
    virtual_clock.advance(2)
    assert await price() == b"2"


def test_without_a_loop(micro: Grelmicro) -> None:
    assert Grelmicro.current() is micro
    with Lock("a").from_thread as handle:
        assert handle.fencing_token > 0

    async def use() -> bool:
        async with Lock("b"):
            return await Lock("b").locked()

    assert asyncio.run(use())


async def test_a_lease_ends_when_the_clock_is_advanced(
    virtual_clock: VirtualClock, micro: Grelmicro
) -> None:
    lock, other = Lock("a", lease_duration=30), Lock("a")
    await lock.acquire()
    virtual_clock.advance(31)
    assert not await lock.locked()
    await asyncio.create_task(other.acquire(timeout=0))


def test_every_test_has_an_app_of_its_own(micro: Grelmicro) -> None:
    assert asyncio.run(TTLCache(ttl=60).get("k")) is None
    asyncio.run(TTLCache(ttl=60).set("k", b"v"))


test_which_begins_empty = test_every_test_has_an_app_of_its_own


@pytest.mark.parametrize("seconds", [-1, math.nan, math.inf])
def test_time_does_not_go_back(seconds: float) -> None:
    with pytest.raises(ValueError, match="seconds: expected 0 or more"):
        VirtualClock().advance(seconds)
