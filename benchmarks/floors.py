"""The floors: the least that the same work costs in plain Python."""

from collections.abc import Awaitable, Callable
from functools import lru_cache
from typing import Any, NamedTuple

KEY = "user:42"
VALUE = b"v" * 20


class Case(NamedTuple):
    """One measured call: `function(argument)`, awaited if it is async."""

    function: Callable[[Any], Any]
    argument: Any
    floor: str = ""
    """What it is compared with."""
    where: str = "async"
    """`async`, `sync`, or `thread`: a synchronous call from a worker thread."""


_entries = {KEY: VALUE}


async def bare(_: Any) -> bytes:
    """Return without any work: what a cached function is when nothing is cached."""
    return VALUE


def bare_sync(_: Any) -> bytes:
    """The same, synchronous."""
    return VALUE


async def _read(key: str) -> bytes:
    return _entries[key]


async def _read_through(key: str) -> bytes:
    return await _read(key)


async def cases() -> dict[str, Case]:
    """The floors, by name."""
    return {
        "coroutine + dict": Case(_read_through, KEY),
        "bare coroutine": Case(bare, 1),
        "lru_cache": Case(lru_cache(bare_sync), 1, where="sync"),
        "loop trip": Case(bare, 1, where="trip"),
    }


Cases = Callable[[], Awaitable[dict[str, Case]]]
