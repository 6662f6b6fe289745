"""Reading an in-process backend at once: the way that every hit in memory takes.

It has to be short, and right: a subclass or a patched instance that changes `get` is honoured, so
that the way is taken only while `get` is the adapter's own.
"""

from collections.abc import Callable, Mapping
from time import monotonic
from typing import Any, Final, NamedTuple

from grelmicro.cache._names import MARK, check_key, unnamed
from grelmicro.cache._recency import Recency

__all__ = ["ASK", "MISS", "Counters", "View", "in_process", "make_reader", "view_of"]


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

Entries = Mapping[str, tuple[bytes, float]]

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


class View(NamedTuple):
    """An in-process backend's entries, and how to tell that they are not to be looked at."""

    entries: Entries
    """Bytes with the monotonic time at which they expire, by key."""
    cls: Any
    own_get: Any
    """What `cls.get` has to be."""
    patched: Mapping[str, object]
    """Where "get" must not be."""


def view_of(backend: Any) -> View | None:
    """Look into an in-process backend: into its `entries`, or through its `get_nowait`."""
    cls = type(backend)
    owner = _owner(cls, "get_nowait")
    if owner is None or owner is not _owner(cls, "get") or not _as_written(owner, cls):
        return None
    entries = backend.entries if "_shipped" in vars(owner) else _Entries(backend)
    return View(entries, cls, cls.get, getattr(backend, "__dict__", {}))


def in_process(backend: object) -> bool:
    """Whether all of `backend` is an in-process adapter's own, so that nothing in it suspends."""
    own = ("get", "set", "delete", "get_nowait")
    cls = type(backend)
    owner, *others = {_owner(cls, name) for name in own}
    if owner is None or others or getattr(backend, "__dict__", {}).keys() & set(own):
        return False
    return _as_written(owner, cls)


def make_reader(
    view: View | None, prefix: str, counters: Counters, recency: Recency | None
) -> Callable[[str], Any]:
    """Make the function that looks a key up in a view, or answers ASK.

    It counts a hit; a MISS is counted too, after its key was checked: what was never stored needs
    no check when it is found.
    """
    if view is None:
        return _ask
    entries, cls, own_get, patched = view

    def read(key: str) -> Any:
        if cls.get is not own_get or "get" in patched:
            return ASK
        try:
            full = prefix + key if prefix else key if key < MARK else unnamed(key)
            data, deadline = entries[full]
        except (KeyError, TypeError):
            check_key(key)
        else:
            if deadline > monotonic():
                if recency is not None:
                    recency.used(full)
                decode = counters.decode
                value = data if decode is None else decode(data)
                if value is not MISS:
                    counters.hits += 1
                    return value
        counters.misses += 1
        return MISS

    return read


def _ask(_: str) -> Any:
    return ASK


class _Entries(Mapping[str, tuple[bytes, float]]):
    """The entries of a backend that has only `get_nowait` to look at them."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend

    def __getitem__(self, key: str) -> tuple[bytes, float]:
        data = self._backend.get_nowait(key=key)
        if data is None:
            raise KeyError(key)
        return data, _FOREVER

    def __iter__(self) -> Any:
        raise NotImplementedError

    def __len__(self) -> int:
        raise NotImplementedError


def _as_written(owner: type, cls: type) -> bool:
    """Whether nobody has put another function in the place of one that `owner` vouches for."""
    own: Mapping[str, object] = vars(owner).get("_shipped", {})
    return all(getattr(cls, name) is function for name, function in own.items())


def _owner(cls: type, name: str) -> type | None:
    """The class that defines `name` for instances of `cls`."""
    return next((each for each in cls.__mro__ if name in vars(each)), None)
