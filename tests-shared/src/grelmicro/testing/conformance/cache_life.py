"""What every cache backend promises: opening and closing, many tasks, cancellation."""

import asyncio
import inspect
import random
from collections.abc import Callable, Coroutine
from typing import Any

from grelmicro.cache import CacheBackend
from grelmicro.testing.conformance._kit import clause, promise, same
from grelmicro.testing.conformance._subject import Subject
from grelmicro.testing.conformance.cache import LONG

_Operations = dict[str, Callable[[], Coroutine[Any, Any, object]]]


def _operations(cache: Any, key: str, value: bytes) -> _Operations:
    """The operations that leave `value` under `key` as it is."""

    async def delete() -> None:
        await cache.set(key=f"other {key}", value=value, ttl=LONG)
        await cache.delete(key=f"other {key}")

    optional: _Operations = {
        "get_many": lambda: cache.get_many(keys=[key]),
        "set_many": lambda: cache.set_many(entries={key: value}, ttl=LONG),
        "touch": lambda: cache.touch(key=key, ttl=LONG),
        "get_with_ttl": lambda: cache.get_with_ttl(key=key),
    }
    return {
        "get": lambda: cache.get(key=key),
        "set": lambda: cache.set(key=key, value=value, ttl=LONG),
        "delete": delete,
        **{name: optional[name] for name in optional if callable(getattr(cache, name, None))},
    }


@clause("cache.call.by_keyword", closed=True)
async def call_by_keyword(subject: Subject) -> None:
    """Every method can be called with the contract's keywords, and needs no more than those.

    Callers use keywords only, so that backends can be wrapped. Name the parameters as the contract
    does, and give others a default.
    """
    cache = subject.adapter("cache", subject.provider())
    contract: dict[str, dict[str, Any]] = {
        "get": {"key": "k"},
        "set": {"key": "k", "value": b"v", "ttl": 1.0},
        "delete": {"key": "k"},
        "clear": {},
        "get_many": {"keys": ["k"]},
        "set_many": {"entries": {"k": b"v"}, "ttl": 1.0},
        "delete_many": {"keys": ["k"]},
        "touch": {"key": "k", "ttl": 1.0},
        "get_with_ttl": {"key": "k"},
        "get_nowait": {"key": "k"},
    }
    for name, keywords in contract.items():
        if callable(method := getattr(cache, name, None)):
            try:
                inspect.signature(method).bind(**keywords)
            except TypeError as error:
                promise(False, f"{name}({', '.join(f'{word}=' for word in keywords)}): {error}")


@clause("cache.life.loop", closed=True)
async def life_loop(subject: Subject) -> None:
    """`_loop` is the running loop from entering to leaving, and None before and after.

    Callers in threads find their way to the loop by it. Set it in `__aenter__`.
    """
    provider = subject.provider()
    async with provider:
        cache = subject.adapter("cache", provider)
        same(cache._loop, None, "_loop before entering")
        async with cache as entered:
            promise(entered is cache, f"__aenter__ returned {entered!r} and not the adapter")
            promise(cache._loop is asyncio.get_running_loop(), f"inside, _loop is {cache._loop!r}")
        same(cache._loop, None, "_loop after leaving")


@clause("cache.life.not_entered", closed=True)
async def life_not_entered(subject: Subject) -> None:
    """An adapter works whenever its provider is open, entered or not.

    An adapter made in a request handler is not entered. Keep what has to be opened in the provider.
    """
    provider = subject.provider()
    async with provider:
        cache = subject.adapter("cache", provider)
        await cache.set(key="k", value=b"v", ttl=LONG)
        same(await cache.get(key="k"), b"v", "an entry of an adapter that was not entered")
        async with cache:
            pass
        await cache.set(key="k", value=b"w", ttl=LONG)
        same(await cache.get(key="k"), b"w", "an entry of an adapter that was left")


@clause("cache.life.reopens", closed=True)
async def life_reopens(subject: Subject) -> None:
    """An adapter can be left and entered again, and its provider closed and opened again.

    Tests open an application again and again. Make in `__aenter__` what `__aexit__` destroys.
    """
    provider = subject.provider()
    cache = subject.adapter("cache", provider)
    for turn in (b"first", b"second", b"third"):
        async with provider:
            for _ in range(2):
                async with cache:
                    await cache.set(key="k", value=turn, ttl=LONG)
                    same(await cache.get(key="k"), turn, "an entry after entering again")


@clause("cache.life.borrows", closed=True)
async def life_borrows(subject: Subject) -> None:
    """Leaving one adapter does not close the provider under another.

    Several components share a provider. Close only what the adapter has opened itself.
    """
    provider = subject.provider()
    async with provider:
        stays = subject.adapter("cache", provider, "one")
        async with stays:
            async with subject.adapter("cache", provider, "two"):
                pass
            await stays.set(key="k", value=b"v", ttl=LONG)
            same(await stays.get(key="k"), b"v", "an entry after another adapter was left")


@clause("cache.life.leaves_no_task", closed=True)
async def life_leaves_no_task(subject: Subject) -> None:
    """When adapter and provider are closed, none of their tasks runs any more.

    A task that stays holds connections and warns at exit. Cancel and await what was started.
    """
    before = asyncio.all_tasks()
    async with subject.open("cache") as cache:
        for operation in _operations(cache, "k", b"v").values():
            await operation()
        await cache.clear()
    for _ in range(10):
        await asyncio.sleep(0)
    left = asyncio.all_tasks() - before
    promise(not left, f"{len(left)} tasks are left: {[task.get_coro() for task in left][:3]}")


@clause("cache.tasks.keep_apart")
async def tasks_keep_apart(cache: CacheBackend) -> None:
    """Any number of tasks use one adapter at the same time, and each gets its own answers.

    A service handles requests at the same time. Let no two commands share a connection's turn or
    a buffer.
    """

    async def use(number: int) -> None:
        for turn in range(5):
            value = b"%d:%d" % (number, turn)
            await cache.set(key=f"{number}", value=value, ttl=LONG)
            same(await cache.get(key=f"{number}"), value, f"the value of task {number}")

    await asyncio.gather(*map(use, range(100)))


@clause("cache.tasks.whole_values")
async def tasks_whole_values(cache: CacheBackend) -> None:
    """Of writers to one key the last wins, and readers see one of their values as a whole.

    A mixture of two values cannot be decoded. Write an entry in one step.
    """
    values = [bytes([letter]) * 10_000 for letter in b"abcdefgh"]
    await cache.set(key="k", value=values[0], ttl=LONG)

    async def read() -> None:
        for _ in range(10):
            promise(await cache.get(key="k") in values, "a reader saw a value that nobody wrote")

    async def write(value: bytes) -> None:
        await cache.set(key="k", value=value, ttl=LONG)

    await asyncio.gather(*(read() for _ in range(8)), *map(write, values))
    await read()


@clause("cache.cancel.in_step")
async def cancel_in_step(cache: CacheBackend) -> None:
    """After cancelled operations the adapter answers as if they had ended or never begun.

    A reply that nobody waited for goes to the next caller: another user's data. Give up a
    connection whose command was cancelled, or see the command to its end.
    """
    chance, loop = random.Random(1), asyncio.get_running_loop()  # noqa: S311  # no secret
    values = {f"{number}": b"value of %d" % number for number in range(20)}
    for key, value in values.items():
        await cache.set(key=key, value=value, ttl=LONG)
    for _ in range(8):
        tasks = {
            asyncio.create_task(operation()): (key if name == "get" else "")
            for key, value in values.items()
            for name, operation in _operations(cache, key, value).items()
        }
        for task in chance.sample([*tasks], len(tasks) // 2):
            loop.call_later(chance.uniform(0, 0.004), task.cancel)
        results = await asyncio.gather(*tasks, return_exceptions=True)
        for task, key, result in zip(tasks, tasks.values(), results, strict=True):
            if task.cancelled():
                continue
            if isinstance(result, BaseException):
                raise result
            if key:
                same(result, values[key], "what a reader got while others were cancelled")
    for key, value in values.items():
        same(await cache.get(key=key), value, "what a reader got after others were cancelled")


@clause("cache.cancel.is_heard")
async def cancel_is_heard(cache: CacheBackend) -> None:
    """A cancelled operation raises CancelledError, whenever the cancellation comes.

    An operation that goes on as if nothing were breaks timeouts and shutdown. Do not catch
    CancelledError, except to clean up and raise it again.
    """
    await cache.set(key="k", value=b"v", ttl=LONG)
    for name, operation in _operations(cache, "k", b"v").items():
        for ticks in range(30):
            task = asyncio.create_task(operation())
            for _ in range(ticks):
                await asyncio.sleep(0)
            was_running = task.cancel()
            (result,) = await asyncio.gather(task, return_exceptions=True)
            promise(
                task.cancelled() or not was_running,
                f"{name} was cancelled after {ticks} steps, and came to {result!r}",
            )
