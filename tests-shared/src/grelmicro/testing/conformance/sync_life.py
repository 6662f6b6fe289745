"""What every synchronization backend promises: waiting, cancellation, and locks built on it."""

import asyncio
import contextlib
import inspect
from time import monotonic
from typing import Any

from grelmicro.sync import Lock, LockLostError, LockTimeoutError, SyncBackend
from grelmicro.testing.conformance._kit import clause, promise, same
from grelmicro.testing.conformance._subject import Capability, Subject
from grelmicro.testing.conformance.cache import LONG, SHORT
from grelmicro.testing.conformance.sync import taken, until_free


@clause("sync.call.by_keyword", closed=True)
async def call_by_keyword(subject: Subject) -> None:
    """Every method can be called with the contract's keywords, and needs no more than those.

    Callers use keywords only, so that backends can be wrapped. Name the parameters as the contract
    does, and give others a default.
    """
    locks = subject.adapter("sync", subject.provider())
    lease: dict[str, Any] = {"name": "n", "token": "t", "duration": 1.0}
    contract: dict[str, dict[str, Any]] = {
        "acquire": lease,
        "release": {"name": "n", "token": "t"},
        "locked": {"name": "n"},
        "owned": {"name": "n", "token": "t"},
        "wait": {"name": "n", "timeout": 1.0},
        "hand_over": {**lease, "to": "u"},
    }
    for name, keywords in contract.items():
        if callable(method := getattr(locks, name, None)):
            try:
                inspect.signature(method).bind(**keywords)
            except TypeError as error:
                promise(False, f"{name}({', '.join(keywords)}): {error}")


@clause("sync.open.notes_its_loop", closed=True)
async def open_notes_its_loop(subject: Subject) -> None:
    """`_loop` is the loop it was opened on, and None before and after.

    Callers in threads reach the backend by it. Set it on entering, and not in the constructor.
    """
    provider = subject.provider()
    async with provider:
        locks = subject.adapter("sync", provider)
        same(locks._loop, None, "before it is opened")
        async with locks:
            promise(locks._loop is asyncio.get_running_loop(), "the loop it was opened on")
        same(locks._loop, None, "after it is closed")


@clause("sync.wait.wakes", needs=(Capability.WAIT,), slow=True)
async def wait_wakes(locks: Any) -> None:
    """`wait` returns soon after the lease was given back.

    Waiters sleep until then, and a second that nobody holds the lease is lost to all. It may return
    earlier: who waits asks anyway. Listen before the caller asks, which is from the first step on.
    """
    await taken(locks, "lock:a", "t")
    for _ in range(3):
        waiting = asyncio.ensure_future(_next_word(locks))
        done, _ = await asyncio.wait([waiting], timeout=0.3)
        promise(not done, "nobody has given it back, and `wait` returns all the time")
        await locks.release(name="lock:a", token="t")
        started = monotonic()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(waiting, 5)
        promise(monotonic() - started < 2.5, "a waiter that is not woken")
        await _had_again(locks)


async def _next_word(locks: Any) -> None:
    """Wait until nobody holds the lease; a few early returns are fine."""
    for _ in range(20):
        await locks.wait(name="lock:a", timeout=30)
        if not await locks.locked(name="lock:a"):
            return


async def _had_again(locks: Any) -> None:
    deadline = monotonic() + 5
    while True:
        if await locks.acquire(name="lock:a", token="t", duration=LONG):
            return
        promise(monotonic() < deadline, "a lease that was given back cannot be had")
        await asyncio.sleep(0.01)


@clause("sync.wait.ends", needs=(Capability.WAIT,), seconds=8.0)
async def wait_ends(locks: Any) -> None:
    """`wait` returns after its timeout, raises nothing then, and can be cancelled.

    Waiters have deadlines, and look by themselves from time to time. Leave nothing behind: no
    subscription that grows, no place in a queue that holds others up.
    """
    await taken(locks, "lock:a", "t")
    wait = locks.wait
    for timeout in (0.0, SHORT, SHORT):
        started = monotonic()
        same(await wait(name="lock:a", timeout=timeout), None, "what `wait` returns")
        promise(monotonic() - started < timeout + 2.5, "a wait that does not end in time")
    for pause in (0.0, 0.01):
        waiting = asyncio.ensure_future(wait(name="lock:a", timeout=30))
        await asyncio.sleep(pause)
        waiting.cancel()
        done, _ = await asyncio.wait([waiting], timeout=2.5)
        promise(done, "a wait that cannot be cancelled")
    await locks.release(name="lock:a", token="t")
    await _had_again(locks)


@clause("sync.cancel.acquire")
async def cancel_acquire(locks: SyncBackend) -> None:
    """An `acquire` that was cancelled can be undone by `release`, at whatever moment that was.

    Whoever gives up does not know whether the server did it. Send nothing of it later: a lease that
    is taken after it was given back is nobody's. Connections stay in step.
    """
    for turn in range(12):
        name, token = f"lock:{turn}", f"t{turn}"
        task = asyncio.ensure_future(locks.acquire(name=name, token=token, duration=LONG))
        for _ in range(turn):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        deadline = monotonic() + 2.5
        while not await locks.acquire(name=name, token="other", duration=LONG):
            promise(monotonic() < deadline, "a lease that nobody holds cannot be had")
            await locks.release(name=name, token=token)
            await asyncio.sleep(0.005)
        await asyncio.sleep(0.01)
        same(await locks.owned(name=name, token="other"), True, "the next holder owns it")


@clause("sync.lock.excludes")
async def lock_excludes(locks: SyncBackend) -> None:
    """A `Lock` on this backend lets one task in at a time, and all of them in the end.

    A read, a pause and a write without it lose updates. Waiters must not be forgotten.
    """
    count = 0

    async def work() -> None:
        nonlocal count
        for _ in range(3):
            async with Lock("a", backend=locks, retry_interval=0.02):
                seen = count
                await asyncio.sleep(0.001)
                count = seen + 1

    await asyncio.gather(*(work() for _ in range(8)))
    same(count, 24, "what 8 tasks counted to, 3 times each")
    await _nobody_holds(locks)


@clause("sync.lock.threads")
async def lock_threads(locks: SyncBackend) -> None:
    """Threads share a `Lock` with tasks.

    Synchronous code uses it by `from_thread`, over the loop that the backend was opened on. Do
    nothing in the caller's thread. Keep no state of a thread.
    """
    count = 0

    def work() -> None:
        nonlocal count
        for _ in range(3):
            with Lock("a", backend=locks, retry_interval=0.02).from_thread:
                count += 1

    await asyncio.gather(*(asyncio.to_thread(work) for _ in range(4)))
    same(count, 12, "what 4 threads counted to, 3 times each")
    await _nobody_holds(locks)


async def _nobody_holds(locks: SyncBackend) -> None:
    same(await locks.locked(name="lock:a"), False, "locked, when all have gone")


@clause("sync.lock.renews", slow=True)
async def lock_renews(locks: SyncBackend) -> None:
    """A `Lock` that is held longer than its lease is renewed.

    Work takes as long as it takes. Extend the lease of the same token; the holder stays the same.
    """
    async with Lock("a", backend=locks, lease_duration=1.0) as handle:
        await asyncio.sleep(1.5)
        promise(not handle.lost.is_set(), "a lease that was renewed is reported as lost")
        refused = await locks.acquire(name="lock:a", token="other", duration=LONG)
        same(refused, 0, "acquiring what is held")


@clause("sync.lock.tells_a_loss")
async def lock_tells_a_loss(locks: SyncBackend) -> None:
    """The holder of a `Lock` is told when its lease has gone to somebody else.

    Never silently: it would go on beside the new holder. An extension of a lease that is over must
    not take it anew without a higher number.
    """
    try:
        async with Lock("a", backend=locks, lease_duration=1.0) as handle:
            holding: Any = handle
            await locks.release(name="lock:a", token=holding.token)
            await taken(locks, "lock:a", "other")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(handle.lost.wait(), 2)
            promise(handle.lost.is_set(), "a loss that nobody is told of")
    except LockLostError:
        pass
    else:
        promise(False, "a block was left as if nothing had happened")
    same(await locks.owned(name="lock:a", token="other"), True, "the new holder owns it")


@clause("sync.lock.gives_up")
async def lock_gives_up(locks: SyncBackend) -> None:
    """Waiters with a timeout, and waiters that are cancelled, leave the lock usable.

    Requests time out all the time. What they asked for and did not wait for must not be granted to
    nobody.
    """
    lock = Lock("a", backend=locks, retry_interval=0.02)
    async with lock:
        for timeout in (0.0, 0.01, SHORT):
            try:
                await Lock("a", backend=locks).acquire(timeout=timeout)
            except LockTimeoutError:
                continue
            promise(False, "two hold the lock")
        waiting = [asyncio.ensure_future(Lock("a", backend=locks).acquire()) for _ in range(5)]
        await asyncio.sleep(SHORT)
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)
    await until_free(locks, "lock:a")
    await lock.acquire(timeout=2.5)
    await lock.release()
