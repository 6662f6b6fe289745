"""What every cache backend promises: one entry, many keys, time, deletion."""

import asyncio

from grelmicro.cache import CacheBackend
from grelmicro.testing.conformance._kit import clause, later, now, promise, same
from grelmicro.testing.conformance._subject import Capability, Subject

__all__ = ["HARD_KEYS", "LONG", "PATIENCE", "SHORT", "lives_on", "wait_until_gone"]

SHORT = 0.05
"""Seconds of a time to live that a test waits for."""

PATIENCE = SHORT + 1.0
"""Seconds after which an entry for SHORT has to be gone."""

LONG = 3600.0
"""Seconds of one that does not end during a test."""

HARD_KEYS = (
    *("k", "K", " k", "k ", "k\0", "k\0a", "k\n", "k\r\nDEL k\r\n", "\t", "é", "e\u0301"),
    *("*", "k*", "?", "[a-z]", "[k]", "\\", "k\\*", "{k}", "{k}a", "%s", "'", '"', "--", ";", "$1"),
    *("a:b", "a::b", ":", "~", "~a:b", "x" * 10_240, "x" * 10_239 + "y", "中", "😀", "\u202e"),
)
"""Keys that some store takes for something else."""

HARD_VALUES = (
    *(b"\0", b"\xff\xfe", b"nil", b"None", b"-1", b"$-1\r\n", b"\r\n", b"true", b"{}", b" a "),
    *(bytes(range(256)), b"x" * 65_536, b"\x80\x04N.", b"0", b"1.0"),
)


async def wait_until_gone(cache: CacheBackend, key: str, seconds: float) -> float:
    """Wait for the end of an entry; return the monotonic time at which it was seen gone.

    Raises:
        BrokenPromiseError: It is still there `seconds` from now. Only the time before a lookup
            counts, so that a slow machine does not make a backend look late.
    """
    started = now()
    while (asked := now()) - started <= seconds:
        if await cache.get(key=key) is None:
            return now()
        await later(0.01)
    promise(await cache.get(key=key) is None, f"an entry is there {asked - started:.2f} s later")
    return now()


async def lives_on(cache: CacheBackend, key: str, value: bytes) -> None:
    """See that an entry outlives SHORT."""
    await later(SHORT * 2)
    same(await cache.get(key=key), value, "an entry whose time is not over")


@clause("cache.get.missing")
async def get_missing(cache: CacheBackend) -> None:
    """`get` of a key that was never set returns None.

    Callers tell a miss by it. Raise nothing, and make up no empty value.
    """
    same(await cache.get(key="absent"), None, "a key that was never set")


@clause("cache.set.returns_bytes")
async def set_returns_bytes(cache: CacheBackend) -> None:
    """`get` returns the very bytes that were set, whatever they are.

    Serializers, compression and signatures depend on it. Store bytes as bytes: no decoding, no
    stripping, no escape that is not undone.
    """
    for value in HARD_VALUES:
        await cache.set(key="k", value=value, ttl=LONG)
        same(await cache.get(key="k"), value, "what was stored")


@clause("cache.set.empty_value")
async def set_empty_value(cache: CacheBackend) -> None:
    """`b""` is a value, and not a miss.

    Else a function whose result is empty runs on every call. Test for None, not for truth.
    """
    await cache.set(key="k", value=b"", ttl=LONG)
    same(await cache.get(key="k"), b"", "an empty value")


@clause("cache.set.overwrites")
async def set_overwrites(cache: CacheBackend) -> None:
    """`set` takes the place of what was there.

    Else a stale value is served for ever. Do not use an insert that keeps what exists.
    """
    for value in (b"first", b"second", b"", b"third"):
        await cache.set(key="k", value=value, ttl=LONG)
        same(await cache.get(key="k"), value, "the value that was set last")


@clause("cache.set.hard_keys")
async def set_hard_keys(cache: CacheBackend) -> None:
    """Any string is a key of its own: control characters, any script, 10 kB, glob characters.

    Two keys that meet serve one user's data to another. Do not trim, fold, normalize or cut keys;
    hash those that the store cannot take.
    """
    for number, key in enumerate(HARD_KEYS):
        await cache.set(key=key, value=b"%d" % number, ttl=LONG)
    for number, key in enumerate(HARD_KEYS):
        same(await cache.get(key=key), b"%d" % number, f"the value under {key[:20]!r}")


@clause("cache.set.empty_key")
async def set_empty_key(cache: CacheBackend) -> None:
    """The empty string is a key like any other.

    A key template may come out empty. Test for None, not for truth.
    """
    await cache.set(key="", value=b"v", ttl=LONG)
    same(await cache.get(key=""), b"v", "the value under the empty key")
    same(await cache.get(key="k"), None, "another key")


@clause("cache.set.expires")
async def set_expires(cache: CacheBackend) -> None:
    """An entry is there until its time is over, and not afterwards.

    A cache that never forgets serves what was true once. The unit is the second; have the store
    count, by a clock that nobody sets.
    """
    before = now()
    await cache.set(key="k", value=b"v", ttl=SHORT)
    lived = await wait_until_gone(cache, "k", PATIENCE) - before
    promise(lived > SHORT * 0.9, f"an entry for {SHORT} s was gone after {lived:.3f} s")


@clause("cache.set.expires_in_time")
async def set_expires_in_time(cache: CacheBackend) -> None:
    """A time to live below a second is not rounded up to one.

    Else `ttl=0.1` is ten times longer on this backend. Use the store's milliseconds.
    """
    await cache.set(key="k", value=b"v", ttl=SHORT)
    await wait_until_gone(cache, "k", SHORT + 0.3)


@clause("cache.set.one_millisecond")
async def set_one_millisecond(cache: CacheBackend) -> None:
    """The shortest time to live, 1 ms, is one: no error, and not for ever.

    Stores often refuse 0 or take it for "never". Round up to what the store can tell apart.
    """
    await cache.set(key="k", value=b"v", ttl=0.001)
    await wait_until_gone(cache, "k", PATIENCE)


@clause("cache.set.centuries")
async def set_centuries(cache: CacheBackend) -> None:
    """Any finite time to live is taken, also one that the store's clock does not reach.

    Callers write 1e9 for "for ever". Clamp to the longest time that the store takes.
    """
    for ttl in (3.2e9, 1e12, 1e18, 1e300):
        await cache.set(key=f"{ttl}", value=b"v", ttl=ttl)
        same(await cache.get(key=f"{ttl}"), b"v", f"an entry for {ttl} s")


@clause("cache.set.lives_on")
async def set_lives_on(cache: CacheBackend) -> None:
    """An entry for seconds is still there after a fraction of them.

    A store that counts in milliseconds makes 3 seconds of an hour. Convert once, in one place.
    """
    await cache.set(key="k", value=b"v", ttl=20)
    await lives_on(cache, "k", b"v")


@clause("cache.set.renews")
async def set_renews(cache: CacheBackend) -> None:
    """Overwriting an entry gives it its new time to live.

    Else a refreshed entry goes with the old one. Update the expiry together with the value.
    """
    await cache.set(key="k", value=b"old", ttl=SHORT)
    await cache.set(key="k", value=b"new", ttl=LONG)
    await lives_on(cache, "k", b"new")


@clause("cache.set.shortens")
async def set_shortens(cache: CacheBackend) -> None:
    """Overwriting an entry gives it its new time to live, also when that is shorter.

    Else the longest time ever given is the one that counts. Do not take a maximum.
    """
    await cache.set(key="k", value=b"old", ttl=LONG)
    await cache.set(key="k", value=b"new", ttl=SHORT)
    await wait_until_gone(cache, "k", PATIENCE)


@clause("cache.delete.removes")
async def delete_removes(cache: CacheBackend) -> None:
    """A deleted key is a miss at once, and can be set again.

    Invalidation rests on it. Mark nothing for later.
    """
    await cache.set(key="k", value=b"v", ttl=LONG)
    await cache.delete(key="k")
    same(await cache.get(key="k"), None, "a deleted key")
    await cache.set(key="k", value=b"again", ttl=LONG)
    same(await cache.get(key="k"), b"again", "a key set after its deletion")


@clause("cache.delete.absent")
async def delete_absent(cache: CacheBackend) -> None:
    """Deleting a key that is not there does nothing, and is no error.

    Two replicas may invalidate the same key. Ignore that nothing was deleted.
    """
    for _ in range(2):
        await cache.delete(key="absent")


@clause("cache.delete.one")
async def delete_one(cache: CacheBackend) -> None:
    """`delete` removes exactly one key, glob characters or not.

    Else one user's invalidation takes everybody's entries. Match keys by equality.
    """
    for key in HARD_KEYS:
        await cache.set(key=key, value=b"v", ttl=LONG)
    gone = HARD_KEYS[::2]  # neighbours look alike
    for key in gone:
        await cache.delete(key=key)
    for key in HARD_KEYS:
        expected = None if key in gone else b"v"
        same(await cache.get(key=key), expected, f"{key[:20]!r} after some keys were deleted")


@clause("cache.clear.removes_all")
async def clear_removes_all(cache: CacheBackend) -> None:
    """`clear` removes every entry, however many and whatever their keys, and no error if none.

    Tests and operators count on an empty cache. Go on until the store has no more of them.
    """
    await cache.clear()
    keys = [*HARD_KEYS, "", *map(str, range(1_200))]
    await asyncio.gather(*(cache.set(key=key, value=b"v", ttl=LONG) for key in keys))
    await cache.clear()
    found = await asyncio.gather(*(cache.get(key=key) for key in keys))
    left = [key[:20] for key, value in zip(keys, found, strict=True) if value is not None]
    promise(not left, f"{len(left)} of {len(keys)} entries survive clear(), such as {left[:3]}")


@clause("cache.clear.spares_others", needs=(Capability.SPACES,), closed=True)
async def clear_spares_others(subject: Subject) -> None:
    """`clear` removes nothing of another adapter on the same backend.

    A database is shared by applications. Never flush it: remove what has the adapter's own prefix.
    """
    provider = subject.provider()
    async with provider:
        ours = subject.adapter("cache", provider, "one")
        theirs = subject.adapter("cache", provider, "two")
        async with ours, theirs:
            for cache in (ours, theirs):
                await cache.set(key="k", value=b"v", ttl=LONG)
            await ours.clear()
            same(await ours.get(key="k"), None, "our entry after clear()")
            same(await theirs.get(key="k"), b"v", "somebody else's entry after our clear()")


@clause("cache.space.separate", needs=(Capability.SPACES,), closed=True)
async def space_separate(subject: Subject) -> None:
    """Adapters of different spaces do not see or delete each other's entries.

    Two applications on one server use the same keys. Put the whole prefix before every key.
    """
    provider = subject.provider()
    async with provider:
        ours = subject.adapter("cache", provider, "one")
        theirs = subject.adapter("cache", provider, "two")
        async with ours, theirs:
            await ours.set(key="k", value=b"ours", ttl=LONG)
            same(await theirs.get(key="k"), None, "our entry, in another space")
            await theirs.set(key="k", value=b"theirs", ttl=LONG)
            same(await ours.get(key="k"), b"ours", "our entry after theirs was set")
            await theirs.delete(key="k")
            same(await ours.get(key="k"), b"ours", "our entry after theirs was deleted")
