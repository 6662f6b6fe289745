"""What a cache backend promises where it offers more than the contract asks for."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from grelmicro.testing.conformance._kit import clause, later, now, promise, same
from grelmicro.testing.conformance._subject import Capability
from grelmicro.testing.conformance.cache import (
    HARD_KEYS,
    LONG,
    PATIENCE,
    SHORT,
    lives_on,
    wait_until_gone,
)

MANY = {f"k{number}": b"%d" % number for number in range(1_001)}
"""More entries than a backend is likely to put into one batch."""


async def _store(cache: Any, entries: dict[str, bytes]) -> None:
    """Set entries one by one, some at the same time."""
    for some in _parts([*entries]):
        await asyncio.gather(*(cache.set(key=k, value=entries[k], ttl=LONG) for k in some))


async def _found(cache: Any, keys: list[str]) -> dict[str, bytes | None]:
    """Get keys one by one, some at the same time."""
    found: dict[str, bytes | None] = {}
    for some in _parts(keys):
        values = await asyncio.gather(*(cache.get(key=key) for key in some))
        found |= zip(some, values, strict=True)
    return found


def _parts(keys: list[str], size: int = 50) -> list[list[str]]:
    return [keys[start : start + size] for start in range(0, len(keys), size)]


@clause("cache.get_many.finds", needs=(Capability.GET_MANY,))
async def get_many_finds(cache: Any) -> None:
    """`get_many` finds each key that is there, with its own value, however many are asked for.

    A value under the wrong key is another user's data. Mind the borders of batches.
    """
    values = {**MANY, **{key: b"hard %d" % number for number, key in enumerate(HARD_KEYS)}}
    await _store(cache, values)
    same(dict(await cache.get_many(keys=[*values])), values, "all keys at once")
    some = dict(list(values.items())[3:9])
    same(dict(await cache.get_many(keys=[*some, *some])), some, "some keys, each of them twice")


@clause("cache.get_many.missing", needs=(Capability.GET_MANY,))
async def get_many_missing(cache: Any) -> None:
    """What is not there is absent from the result of `get_many`, and an empty value is in it.

    Callers take every value in it for a hit. Leave out None; do not leave out `b""`.
    """
    await cache.set(key="empty", value=b"", ttl=LONG)
    await cache.set(key="expired", value=b"v", ttl=SHORT)
    await wait_until_gone(cache, "expired", PATIENCE)
    found = await cache.get_many(keys=["absent", "empty", "expired"])
    same(dict(found), {"empty": b""}, "an absent, an empty and an expired entry")
    same(dict(await cache.get_many(keys=[])), {}, "no keys")


@clause("cache.set_many.stores", needs=(Capability.SET_MANY,))
async def set_many_stores(cache: Any) -> None:
    """`set_many` stores every entry, in the place of what was there; none is no error.

    A value that is left out is an old one that stays. Mind the borders of batches.
    """
    await cache.set_many(entries={}, ttl=LONG)
    await cache.set_many(entries=dict.fromkeys(MANY, b"old"), ttl=LONG)
    await cache.set_many(entries=MANY, ttl=LONG)
    for key, found in (await _found(cache, [*MANY])).items():
        same(found, MANY[key], f"{key} after set_many")


@clause("cache.set_many.expires", needs=(Capability.SET_MANY,))
async def set_many_expires(cache: Any) -> None:
    """Entries of `set_many` live as long as those of `set`, in the place of an older time.

    Stores have a plain "set several" that keeps entries for ever. Give each its expiry.
    """
    await cache.set(key="renewed", value=b"v", ttl=SHORT)
    await cache.set_many(entries={"renewed": b"w", "long": b"v"}, ttl=LONG)
    await cache.set_many(entries={"short": b"v", "other": b"v"}, ttl=SHORT)
    await lives_on(cache, "long", b"v")
    same(await cache.get(key="renewed"), b"w", "an entry whose time was renewed")
    await wait_until_gone(cache, "short", PATIENCE)
    await wait_until_gone(cache, "other", PATIENCE)


@clause("cache.delete_many.removes", needs=(Capability.DELETE_MANY,))
async def delete_many_removes(cache: Any) -> None:
    """`delete_many` deletes every key that is there, and no other; absent ones are no error.

    Invalidation rests on it. Mind the borders of batches.
    """
    await cache.delete_many(keys=[])
    await _store(cache, MANY)
    kept = {"k0", "k500", "k1000"}
    await cache.delete_many(keys=[*(MANY.keys() - kept), "absent", "*"])
    found = await _found(cache, [*MANY])
    same({key for key in MANY if found[key] is not None}, kept, "the keys that are there")


@clause("cache.touch.prolongs", needs=(Capability.TOUCH,))
async def touch_prolongs(cache: Any) -> None:
    """`touch` lets an entry live for a new time from now, leaves its value, and returns True.

    Sliding sessions are built of it. Change the expiry alone.
    """
    ttl, touched = SHORT, False
    while not touched and ttl < 10:
        before = now()
        await cache.set(key="k", value=b"v", ttl=ttl)
        touched = await cache.touch(key="k", ttl=LONG)
        promise(touched or now() - before > ttl, "touch of an entry that is there is False")
        ttl *= 4  # only where the machine was too slow to touch it in time
    same(touched, True, "touch of an entry that is there")
    await later(ttl / 2)
    same(await cache.get(key="k"), b"v", "an entry whose time was prolonged")
    await cache.touch(key="k", ttl=SHORT)
    await wait_until_gone(cache, "k", PATIENCE)


@clause("cache.touch.missing", needs=(Capability.TOUCH,))
async def touch_missing(cache: Any) -> None:
    """`touch` of a key that is not there, or has expired, returns False and makes no entry.

    A caller tells by it that there is nothing to prolong. Ask the store whether it changed one.
    """
    same(await cache.touch(key="absent", ttl=LONG), False, "touch of a key that was never set")
    same(await cache.get(key="absent"), None, "a key that was only touched")
    await cache.set(key="k", value=b"v", ttl=SHORT)
    await wait_until_gone(cache, "k", PATIENCE)
    same(await cache.touch(key="k", ttl=LONG), False, "touch of an expired entry")
    same(await cache.get(key="k"), None, "an expired entry that was touched")


@clause("cache.get_with_ttl.tells", needs=(Capability.GET_WITH_TTL,))
async def get_with_ttl_tells(cache: Any) -> None:
    """`get_with_ttl` returns the bytes and the seconds that the entry will live.

    Early refresh and stale serving compute with it. The unit is the second, by the same clock that
    the entry expires by.
    """
    await cache.set(key="k", value=b"v", ttl=LONG)
    value, left = await cache.get_with_ttl(key="k")
    same(value, b"v", "the bytes")
    promise(LONG - 30 < left <= LONG, f"{left!r} s are left of {LONG} s")
    await cache.set(key="k", value=b"", ttl=LONG / 2)
    value, left = await cache.get_with_ttl(key="k")
    same(value, b"", "an empty value")
    promise(LONG / 2 - 30 < left <= LONG / 2, f"{left!r} s are left of {LONG / 2} s")


@clause("cache.get_with_ttl.missing", needs=(Capability.GET_WITH_TTL,))
async def get_with_ttl_missing(cache: Any) -> None:
    """`get_with_ttl` of what is not there returns None.

    Callers tell a miss by it. Make no pair of it.
    """
    same(await cache.get_with_ttl(key="absent"), None, "a key that was never set")
    await cache.set(key="k", value=b"v", ttl=SHORT)
    await wait_until_gone(cache, "k", PATIENCE)
    same(await cache.get_with_ttl(key="k"), None, "an expired entry")


@clause("cache.clear_prefix.removes", needs=(Capability.CLEAR_PREFIX,))
async def clear_prefix_removes(cache: Any) -> None:
    """`clear(prefix=)` removes the keys that begin with it; an empty prefix means all of them.

    Named caches clear themselves so. Match the beginning of the caller's key, not of the store's.
    """
    keys = ["", "a", "ab", "abc", "b", "ba", "a:b"]
    for part in ("ab", "b", "absent", ""):
        for key in keys:
            await cache.set(key=key, value=b"v", ttl=LONG)
        await cache.clear(prefix=part)
        for key in keys:
            kept = not key.startswith(part)
            same(await cache.get(key=key) is not None, kept, f"{key!r} survives clear({part!r})")


@clause("cache.clear_prefix.literal", needs=(Capability.CLEAR_PREFIX,))
async def clear_prefix_literal(cache: Any) -> None:
    """Glob characters in the prefix of `clear(prefix=)` stand for themselves.

    A cache may be called `a*`. Escape what the store's patterns give a meaning to.
    """
    parts = ["*", "a*", "?", "[ab]", "[^a]", "[a-z]", "\\", "\\*", "%", "_", "a"]
    keys = [f"{part}{end}" for part in [*parts, "b", "c"] for end in ("x", "")]
    for part in parts[:-1]:
        for key in keys:
            await cache.set(key=key, value=b"v", ttl=LONG)
        await cache.clear(prefix=part)
        for key in keys:
            kept = not key.startswith(part)
            same(await cache.get(key=key) is not None, kept, f"{key!r} survives clear({part!r})")


@clause("cache.get_nowait.agrees", needs=(Capability.GET_NOWAIT,))
async def get_nowait_agrees(cache: Any) -> None:
    """`get_nowait` returns at once what `get` would: values, misses, expired entries.

    `TTLCache` reads an in-process backend by it. Let one of the two call the other.
    """
    same(cache.get_nowait(key="absent"), None, "a key that was never set")
    for value in (b"v", b"", b"w"):
        await cache.set(key="k", value=value, ttl=LONG)
        same(cache.get_nowait(key="k"), value, "the value that was set last")
    await cache.set(key="k", value=b"v", ttl=SHORT)
    await later(SHORT * 2)
    same(cache.get_nowait(key="k"), None, "an expired entry")
    await cache.set(key="k", value=b"v", ttl=LONG)
    await cache.delete(key="k")
    same(cache.get_nowait(key="k"), None, "a deleted key")


@clause("cache.get_nowait.never_suspends", needs=(Capability.GET_NOWAIT,))
async def get_nowait_never_suspends(cache: Any) -> None:
    """The coroutines of a backend that has `get_nowait` end without waiting for anything.

    Callers in threads run them on the spot, where nothing can be waited for. Await nothing, or do
    not offer `get_nowait`.
    """
    operations: dict[str, Coroutine[Any, Any, object]] = {
        "set": cache.set(key="k", value=b"v", ttl=LONG),
        "get": cache.get(key="k"),
        "delete": cache.delete(key="k"),
        "clear": cache.clear(),
    }
    suspended = [name for name, operation in operations.items() if _suspends(operation)]
    promise(not suspended, f"{', '.join(suspended)} waits, though there is get_nowait")


def _suspends(coroutine: Coroutine[Any, Any, object]) -> bool:
    try:
        coroutine.send(None)
    except StopIteration:
        return False
    coroutine.close()
    return True
