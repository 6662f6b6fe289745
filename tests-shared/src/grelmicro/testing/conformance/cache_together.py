"""What every cache backend promises: to other processes, in bad networks, after any history."""

import asyncio
from collections.abc import Awaitable
from typing import Any

from grelmicro.cache import CacheBackend
from grelmicro.testing.conformance._faults import faults_of
from grelmicro.testing.conformance._kit import clause, promise, same
from grelmicro.testing.conformance._models import Machine, agree
from grelmicro.testing.conformance._processes import in_processes
from grelmicro.testing.conformance._subject import Capability, Subject
from grelmicro.testing.conformance.cache import LONG


async def _write_and_read(cache: CacheBackend, number: int) -> tuple[bytes | None, bytes | None]:
    """Read what the parent wrote, and write what it reads."""
    found = await cache.get(key="from the parent")
    await cache.set(key=f"from {number}", value=b"%d" % number, ttl=LONG)
    return found, await cache.get(key=f"from {number}")


@clause(
    "cache.processes.share", needs=(Capability.PROCESSES,), closed=True, seconds=60.0, slow=True
)
async def processes_share(subject: Subject) -> None:
    """Processes see each other's entries at once.

    A cache that is shared saves each of them the work. Write through to the store, before `set`
    returns.
    """
    async with subject.open("cache") as cache:
        await cache.set(key="from the parent", value=b"v", ttl=LONG)
        found = await in_processes(subject, "cache", _write_and_read, 2)
        same(found, [(b"v", b"0"), (b"v", b"1")], "what two processes read")
        same(await cache.get(key="from 1"), b"1", "what another process wrote")


@clause("cache.model.agrees", closed=True, seconds=60.0, slow=True)
async def model_agrees(subject: Subject) -> None:
    """After any sequence of operations it holds what a dictionary would.

    Some defects show only after a certain history. Replay the steps that are told, which are as few
    as could be found.
    """
    await agree(subject, "cache", _Entries)


class _Entries(Machine):
    """Sets, deletes and clears a few keys, and compares with a dictionary."""

    keys = ("a", "a:", "é")
    steps = (
        *("set", "set", "get", "get", "delete", "delete", "clear", "touch"),
        *("get_many", "delete_many", "set_many"),
    )

    def begin(self) -> None:
        self.model: dict[str, bytes] = {}

    def can(self, step: str) -> bool:
        return callable(getattr(self.adapter, step, None))

    def do(self, step: str, first: int, second: int) -> Awaitable[Any]:
        key, value = self.keys[first % 3], (b"", b"1", b"\0two")[second % 3]
        return getattr(self, f"_{step}")(key, value)  # type: ignore[no-any-return]  # one of `steps`

    async def _set(self, key: str, value: bytes) -> None:
        await self.adapter.set(key=key, value=value, ttl=LONG)
        self.model[key] = value

    async def _get(self, key: str, value: bytes) -> None:
        same(await self.adapter.get(key=key), self.model.get(key), f"get({key!r})")

    async def _delete(self, key: str, value: bytes) -> None:
        await self.adapter.delete(key=key)
        self.model.pop(key, None)

    async def _clear(self, key: str, value: bytes) -> None:
        await self.adapter.clear()
        self.model.clear()

    async def _get_many(self, key: str, value: bytes) -> None:
        found = await self.adapter.get_many(keys=list(self.keys))
        same(dict(found), self.model, "get_many of all keys")

    async def _set_many(self, key: str, value: bytes) -> None:
        entries = {key: value, "a": b"many"}
        await self.adapter.set_many(entries=entries, ttl=LONG)
        self.model.update(entries)

    async def _delete_many(self, key: str, value: bytes) -> None:
        await self.adapter.delete_many(keys=[key, "a"])
        for each in (key, "a"):
            self.model.pop(each, None)

    async def _touch(self, key: str, value: bytes) -> None:
        found = await self.adapter.touch(key=key, ttl=LONG)
        promise(bool(found) == (key in self.model), f"touch({key!r}) returned {found!r}")


async def _use(cache: CacheBackend, name: str) -> None:
    value = name.encode()
    await cache.set(key=name, value=value, ttl=LONG)
    same(await cache.get(key=name), value, f"the value of {name!r}")
    await asyncio.sleep(0)


faults_of("cache", _use)
