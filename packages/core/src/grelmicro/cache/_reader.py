"""Reading an in-process backend at once: the way that every hit in memory takes.

It has to be short, and right: a subclass or a patched instance that changes `get` is honoured, so
that the way is taken only while `get` is the adapter's own.
"""

from collections.abc import Callable
from time import monotonic
from typing import Any, Final

from grelmicro.cache._names import MARK, check_key, unnamed
from grelmicro.cache._recency import Recency

__all__ = ["ASK", "MISS", "Counters", "in_process", "make_reader"]


class _Answer:
    """An answer that is no value."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return self._name


MISS: Final = _Answer("MISS")
"""There is nothing under that key."""

ASK: Final = _Answer("ASK")
"""The backend has to be awaited."""

_Lookup = Callable[[str], tuple[bytes, float] | None]

_FOREVER = float("inf")


class Counters:
    """What a cache counts, and how it decodes; shared with its readers."""

    __slots__ = ("decode", "evictions", "hits", "misses")

    def __init__(self) -> None:
        self.hits = 0
        self.misses = 0
        self.evictions = 0
        self.decode: Callable[[bytes], Any] | None = None
        """Makes a value of bytes, or MISS; None where the bytes are the value."""


def in_process(backend: object) -> bool:
    """Whether all of `backend` is an in-process adapter's own, so that nothing in it suspends."""
    own = ("get", "set", "delete", "get_nowait")
    owners = {_owner(type(backend), name) for name in own}
    patched = getattr(backend, "__dict__", {}).keys() & set(own)
    return len(owners) == 1 and None not in owners and not patched


def make_reader(
    backend: Any, prefix: str, counters: Counters, recency: Recency | None
) -> Callable[[str], Any]:
    """Make the function that looks a key up in `backend`, or answers ASK.

    It counts a hit; a MISS is counted too, after its key was checked: what was never stored needs
    no check when it is found.
    """
    cls, lookup = type(backend), _lookup_of(backend)
    if lookup is None:
        return _ask
    own_get = cls.get
    patched = getattr(backend, "__dict__", {})

    def read(key: str) -> Any:
        if cls.get is not own_get or "get" in patched:
            return ASK
        try:
            full = prefix + key if prefix else key if key < MARK else unnamed(key)
            entry = lookup(full)
        except TypeError:
            check_key(key)
            raise
        if entry is None or entry[1] <= monotonic():
            check_key(key)
            counters.misses += 1
            return MISS
        if recency is not None:
            recency.used(full)
        decode = counters.decode
        value = entry[0] if decode is None else decode(entry[0])
        if value is MISS:
            counters.misses += 1
        else:
            counters.hits += 1
        return value

    return read


def _ask(_: str) -> Any:
    return ASK


def _lookup_of(backend: Any) -> _Lookup | None:
    """How to look into an in-process backend: into its entries, or by its `get_nowait`."""
    owner = _owner(type(backend), "get_nowait")
    if owner is None or owner is not _owner(type(backend), "get"):
        return None
    lookup: _Lookup | None = getattr(backend, "lookup", None)
    return lookup if lookup is not None else _lookup_by(backend.get_nowait)


def _lookup_by(get_nowait: Callable[..., bytes | None]) -> _Lookup:
    def lookup(key: str) -> tuple[bytes, float] | None:
        value = get_nowait(key=key)
        return None if value is None else (value, _FOREVER)

    return lookup


def _owner(cls: type, name: str) -> type | None:
    """The class that defines `name` for instances of `cls`."""
    return next((each for each in cls.__mro__ if name in vars(each)), None)
