"""What every synchronization backend promises: leases, their numbers, their holders."""

import asyncio
from typing import Any

from grelmicro.sync import SyncBackend
from grelmicro.testing.conformance._kit import clause, later, now, promise, same
from grelmicro.testing.conformance._subject import Capability
from grelmicro.testing.conformance.cache import HARD_KEYS, LONG, PATIENCE, SHORT

__all__ = ["NAMES", "TOKENS", "taken", "until_free"]

NAMES = tuple(dict.fromkeys(f"lock:{key}" for key in HARD_KEYS if "\0" not in key))
"""Names that some store takes for something else. None has a NUL: `Lock` refuses that."""

TOKENS = (
    *("t", "T", "t ", " t", "t t", "1 t", "t1", "1", "0", "-1", "nil", "é", "*", "%s", "'", ":"),
    *("t:t", "{t}", "a-0", "a-00", "worker 1:a-0", "x" * 1024, "x" * 1023 + "y"),
)
"""Tokens that some store takes for something else."""


async def taken(locks: SyncBackend, name: str, token: str, duration: float = LONG) -> int:
    """Take a lease that is free; its number.

    Raises:
        BrokenPromiseError: It was refused.
    """
    number = await locks.acquire(name=name, token=token, duration=duration)
    promise(type(number) is int and number > 0, f"a free lease: expected a number, got {number!r}")
    return number


async def until_free(locks: SyncBackend, name: str, seconds: float = PATIENCE) -> None:
    """Wait for the end of a lease.

    Raises:
        BrokenPromiseError: It lasts longer than `seconds`.
    """
    started = now()
    while (asked := now()) - started <= seconds:
        if not await locks.locked(name=name):
            return
        await later(0.01)
    promise(False, f"a lease lasts {asked - started:.2f} s after it should have ended")


@clause("sync.acquire.excludes")
async def acquire_excludes(locks: SyncBackend) -> None:
    """One token has the lease, and `acquire` returns 0 to every other.

    That is what a lock is. Compare and store in one step on the server, never by a read and a
    write. The 0 is an int, and no exception.
    """
    await taken(locks, "lock:a", "one")
    for token in ("two", "", "One", "one "):
        found = await locks.acquire(name="lock:a", token=token, duration=LONG)
        same(found, 0, "acquiring what another token holds")
    same(await locks.owned(name="lock:a", token="one"), True, "the holder owns it")


@clause("sync.acquire.one_of_many")
async def acquire_one_of_many(locks: SyncBackend) -> None:
    """Of many that ask at the same time, exactly one gets the lease.

    Two would both go on, and do twice what is to be done once. A check and a write that others can
    come between are the usual cause. Use one statement or script.
    """
    for turn in range(10):
        asked = (
            locks.acquire(name=f"lock:{turn}", token=f"t{number}", duration=LONG)
            for number in range(30)
        )
        numbers = await asyncio.gather(*asked)
        winners = [number for number in numbers if number]
        same(len(winners), 1, "how many of 30 tasks got the lease")


@clause("sync.acquire.again_extends")
async def acquire_again_extends(locks: SyncBackend) -> None:
    """The holder's token again gets the same number, and the lease lasts from now on.

    That is how leases are renewed. A higher number would tell stores that the holder has changed.
    Set the new end, whether it is later than the old one or earlier.
    """
    number = await taken(locks, "lock:a", "t", SHORT)
    found = await locks.acquire(name="lock:a", token="t", duration=LONG)
    if found != number:  # a slow machine: the first lease ended before it was extended
        number = found
    await later(SHORT * 2)
    same(await locks.owned(name="lock:a", token="t"), True, "a lease that was extended lasts")
    again = await locks.acquire(name="lock:a", token="t", duration=LONG)
    same(again, number, "the number of the same holder")
    same(await locks.acquire(name="lock:a", token="t", duration=SHORT), number, "shortened")
    await until_free(locks, "lock:a")


@clause("sync.acquire.expires")
async def acquire_expires(locks: SyncBackend) -> None:
    """A lease ends by itself after its duration, and is nobody's then.

    A holder that died would hold up the others for ever. Let the server's clock end it. What is
    over is not locked, not owned, and cannot be given back.
    """
    await taken(locks, "lock:a", "t", SHORT)
    await until_free(locks, "lock:a")
    same(await locks.owned(name="lock:a", token="t"), False, "owned when it is over")
    same(await locks.release(name="lock:a", token="t"), False, "given back when it is over")
    await taken(locks, "lock:a", "other")


@clause("sync.acquire.lasts")
async def acquire_lasts(locks: SyncBackend) -> None:
    """A lease lasts for its duration: a second is not a millisecond, and ten years are possible.

    A lease that ends early lets two in. Mind the unit that the server counts in. Mind its largest
    number.
    """
    for name, duration in (("lock:a", 1.5), ("lock:b", LONG), ("lock:c", 3.2e8)):
        await taken(locks, name, "t", duration)
    await later(SHORT * 4)
    for name in ("lock:a", "lock:b", "lock:c"):
        same(await locks.owned(name=name, token="t"), True, "a lease whose time is not over")


@clause("sync.acquire.short_lease")
async def acquire_short_lease(locks: SyncBackend) -> None:
    """A lease of a millisecond ends, and is granted.

    Rounded down to 0 it would last for ever, or be an error. Round up to the unit of the server.
    """
    await taken(locks, "lock:a", "t", 0.001)
    await until_free(locks, "lock:a")


@clause("sync.acquire.numbers_rise")
async def acquire_numbers_rise(locks: SyncBackend) -> None:
    """The fencing token rises with every change of holder, however the last one ended.

    A store that refuses lower numbers than it has seen is safe from a holder that was late. Count
    where it survives the end of a lease. Draw the number in the step that grants the lease.
    """
    numbers = [await taken(locks, "lock:a", "one")]
    await locks.release(name="lock:a", token="one")
    numbers.append(await taken(locks, "lock:a", "two", SHORT))
    await until_free(locks, "lock:a")
    numbers.append(await taken(locks, "lock:a", "three", SHORT))
    await until_free(locks, "lock:a")
    numbers.append(await taken(locks, "lock:a", "three"))
    await locks.release(name="lock:a", token="three")
    numbers.append(await taken(locks, "lock:a", "three"))
    promise(numbers == sorted({*numbers}), f"numbers that do not rise: {numbers}")


@clause("sync.acquire.numbers_rise_among_many")
async def acquire_numbers_rise_among_many(locks: SyncBackend) -> None:
    """Numbers rise in the order of holders, also while many ask at once.

    One that was drawn before the lease was granted may be lower than that of an earlier holder.
    Draw it while nobody else can be granted the lease. A new name is no exception.
    """
    for turn in range(5):
        order: list[int] = []

        async def hold(name: str, token: str, order: list[int]) -> None:
            number = 0
            while not number:
                number = await locks.acquire(name=name, token=token, duration=LONG)
            order.append(number)
            await locks.release(name=name, token=token)

        await asyncio.gather(*(hold(f"lock:{turn}", f"t{n}", order) for n in range(8)))
        promise(order == sorted({*order}), f"numbers that do not rise: {order}")


@clause("sync.names.apart")
async def names_apart(locks: SyncBackend) -> None:
    """Every name is a lock of its own: any script, 10 kB, glob characters, colons.

    Names that meet hold each other up, or let a stranger give a lock back. Do not trim, fold, cut
    or hash names to a few bits. Store them whole, or with a digest of all of them.
    """
    for name in NAMES:
        await taken(locks, name, "t")
    for name in NAMES:
        same(await locks.owned(name=name, token="t"), True, f"{name[:20]!r} is held")
    for name in NAMES:
        same(await locks.release(name=name, token="t"), True, f"{name[:20]!r} is given back")


@clause("sync.tokens.exact")
async def tokens_exact(locks: SyncBackend) -> None:
    """Tokens are compared whole and exactly.

    One that passes for another gives a lock back that it does not hold. Split nothing off what is
    stored. Compare bytes.
    """
    for holder in TOKENS:
        await taken(locks, "lock:a", holder)
        for other in TOKENS:
            if other != holder:
                same(await locks.owned(name="lock:a", token=other), False, f"owned by {other!r}")
        nearest = TOKENS[TOKENS.index(holder) - 1]
        same(await locks.release(name="lock:a", token=nearest), False, "given back by another")
        same(await locks.release(name="lock:a", token=holder), True, "given back by the holder")


@clause("sync.release.frees")
async def release_frees(locks: SyncBackend) -> None:
    """`release` by the holder returns True, and the lease can be had at once.

    Whoever waits depends on it. Return whether the lease was this token's until now. Keep nothing
    back.
    """
    for token in ("one", "two", "one"):
        await taken(locks, "lock:a", token)
        same(await locks.release(name="lock:a", token=token), True, "what the holder gets")
        same(await locks.locked(name="lock:a"), False, "locked, after it was given back")


@clause("sync.release.compares")
async def release_compares(locks: SyncBackend) -> None:
    """`release` by anybody but the holder returns False, and changes nothing.

    A holder whose lease has ended would free the next one's. Compare and delete in one step. An
    absent lease is no error.
    """
    same(await locks.release(name="lock:a", token="t"), False, "nobody holds it")
    await taken(locks, "lock:a", "old", SHORT)
    await until_free(locks, "lock:a")
    number = await taken(locks, "lock:a", "new")
    same(await locks.release(name="lock:a", token="old"), False, "somebody else holds it")
    same(await locks.owned(name="lock:a", token="new"), True, "the holder owns it still")
    again = await locks.acquire(name="lock:a", token="new", duration=LONG)
    same(again, number, "the holder's number")


@clause("sync.release.once")
async def release_once(locks: SyncBackend) -> None:
    """A second `release` returns False.

    It tells the holder that something went wrong. Return whether something was released, not
    whether the command went well.
    """
    await taken(locks, "lock:a", "t")
    same(await locks.release(name="lock:a", token="t"), True, "the first")
    same(await locks.release(name="lock:a", token="t"), False, "the second")


@clause("sync.locked.tells")
async def locked_tells(locks: SyncBackend) -> None:
    """`locked` and `owned` tell what is, and change nothing.

    They are for people and for tests. Return bools. Do not extend the lease by looking.
    """
    same(await locks.locked(name="lock:a"), False, "locked, a name that was never used")
    same(await locks.owned(name="lock:a", token="t"), False, "owned, a name that was never used")
    await taken(locks, "lock:a", "t", SHORT * 4)
    same(await locks.locked(name="lock:a"), True, "locked, while somebody holds it")
    same(await locks.locked(name="lock:b"), False, "locked, another name")
    same(await locks.owned(name="lock:a", token="t"), True, "owned, by the holder")
    same(await locks.owned(name="lock:a", token="other"), False, "owned, by another")
    await until_free(locks, "lock:a")
    same(await locks.owned(name="lock:a", token="t"), False, "owned, when its time is over")


@clause("sync.hand_over.gives", needs=(Capability.HAND_OVER,))
async def hand_over_gives(locks: Any) -> None:
    """`hand_over` makes the lease another token's in one step, with a higher number.

    Tasks of one process take turns by it. Nobody may come between. Refuse everybody but the holder,
    and change nothing then.
    """
    hand_over = locks.hand_over
    number = await taken(locks, "lock:a", "one", SHORT)
    given = await hand_over(name="lock:a", token="one", to="two", duration=LONG)
    if not given:  # a slow machine: its lease had ended
        number = await taken(locks, "lock:a", "one")
        given = await hand_over(name="lock:a", token="one", to="two", duration=LONG)
    promise(type(given) is int and given > number, f"a higher number than {number}, not {given}")
    same(await locks.owned(name="lock:a", token="one"), False, "owned by the old holder")
    await later(SHORT * 2)
    same(await locks.owned(name="lock:a", token="two"), True, "owned by the new holder")
    again = await hand_over(name="lock:a", token="one", to="two", duration=LONG)
    same(again, given, "handed over once more: a reply was lost")
    refused = await hand_over(name="lock:a", token="one", to="three", duration=LONG)
    same(refused, 0, "handed over by somebody who does not hold it")
    same(await locks.release(name="lock:a", token="two"), True, "given back by the new holder")
    refused = await hand_over(name="lock:a", token="two", to="three", duration=LONG)
    same(refused, 0, "handed over by nobody")
    same(await locks.locked(name="lock:a"), False, "locked after all that")
