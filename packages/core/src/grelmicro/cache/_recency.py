"""Which entries a cache with `maxsize` keeps, and which has to go."""

import threading
from collections import OrderedDict
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from time import monotonic

from grelmicro.cache._expiry import ExpiryIndex

__all__ = ["Recency"]


class Recency:
    """The keys that one cache stored, the least recently used first; safe for threads.

    Args:
        maxsize: Most keys, at least 1.
    """

    def __init__(self, maxsize: int) -> None:
        self._maxsize = maxsize
        self._deadlines: OrderedDict[str, float] = OrderedDict()
        self._expiry = ExpiryIndex()
        self._lock = threading.Lock()

    def used(self, key: str) -> None:
        """Promote `key`, if it is one of ours."""
        with self._lock:
            if key in self._deadlines:
                self._deadlines.move_to_end(key)

    def missed(self, key: str) -> None:
        """Let `key`, if it is one of ours, be the next to go.

        It is not dropped: what was missed may be stored by the time that the answer is here.
        """
        with self._lock:
            if key in self._deadlines:
                self._deadlines.move_to_end(key, last=False)

    def __contains__(self, key: str) -> bool:
        with self._lock:
            return key in self._deadlines

    def reserve(self, key: str, ttl: float) -> list[str]:
        """Take `key` in, for `ttl` seconds; return the live keys that have to make room.

        Expired keys go first, and are not among those returned.
        """
        now = monotonic()
        with self._lock:
            self._remove(key)
            self._add(key, now + ttl)
            return self._make_room(now)

    def prolong(self, key: str, ttl: float) -> None:
        """Note that `key`, if it is one of ours, lives for `ttl` seconds from now."""
        with self._lock:
            if key in self._deadlines:
                self._remove(key)
                self._add(key, monotonic() + ttl)

    def restore(self, key: str, ttl: float) -> None:
        """Take back a key that could not be made to go, as the next to go."""
        with self._lock:
            self._take_back(key, monotonic() + ttl)

    def forget(self, key: str) -> None:
        """Drop `key`, if it is one of ours."""
        with self._lock:
            self._remove(key)

    @contextmanager
    def dropping(self, keys: Iterable[str] | None = None) -> Generator[None, None, None]:
        """Drop `keys` (all, by default) and have them deleted within this block.

        Where that fails they may still be there, and are taken back as the next to go.
        """
        with self._lock:
            wanted = list(self._deadlines) if keys is None else keys
            dropped = {key: self._deadlines[key] for key in wanted if key in self._deadlines}
            for key in dropped:
                self._remove(key)
        try:
            yield
        except BaseException:
            with self._lock:
                for key in reversed(dropped):
                    self._take_back(key, dropped[key])
            raise

    def count(self) -> int:
        """Count the keys that have not expired."""
        now = monotonic()
        with self._lock:
            return sum(deadline > now for deadline in self._deadlines.values())

    def _make_room(self, now: float) -> list[str]:
        victims = []
        while len(self._deadlines) > self._maxsize:
            due = self._expiry.due(now, 1)
            if due:
                del self._deadlines[due[0]]
                continue
            key, deadline = self._deadlines.popitem(last=False)
            self._expiry.remove(key, deadline)
            if deadline > now:
                victims.append(key)
        return victims

    def _take_back(self, key: str, deadline: float) -> None:
        if key not in self._deadlines:
            self._add(key, deadline)
            self._deadlines.move_to_end(key, last=False)

    def _add(self, key: str, deadline: float) -> None:
        self._deadlines[key] = deadline
        self._expiry.add(key, deadline)

    def _remove(self, key: str) -> None:
        deadline = self._deadlines.pop(key, None)
        if deadline is not None:
            self._expiry.remove(key, deadline)
