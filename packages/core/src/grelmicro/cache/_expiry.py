"""Which keys are due: an index by second, kept up to date entry by entry.

A heap would gather a dead item for every overwrite, and a scan stops the world; here a key stands
in exactly one slot, and a sweep costs what it removes.
"""

__all__ = ["ExpiryIndex"]


class ExpiryIndex:
    """Keys by the second in which they expire. Not safe for threads by itself."""

    __slots__ = ("_next", "_slots")

    def __init__(self) -> None:
        self._slots: dict[int, set[str]] = {}
        self._next: int | None = None

    def add(self, key: str, deadline: float) -> None:
        """Note that `key` expires at `deadline`; it is in no other slot."""
        slot = int(deadline)
        try:
            self._slots[slot].add(key)
        except KeyError:
            self._slots[slot] = {key}
            if self._next is None or slot < self._next:
                self._next = slot

    def remove(self, key: str, deadline: float) -> None:
        """Forget the note that `add` made with the same arguments."""
        slot = int(deadline)
        keys = self._slots[slot]
        keys.discard(key)
        if not keys:
            del self._slots[slot]

    def clear(self) -> None:
        """Forget everything."""
        self._slots.clear()
        self._next = None

    def due(self, now: float, limit: int) -> list[str]:
        """Take out at most `limit` keys whose second is over by `now`, the oldest first."""
        taken: list[str] = []
        while len(taken) < limit and (slot := self._first_before(int(now))) is not None:
            keys = self._slots[slot]
            while keys and len(taken) < limit:
                taken.append(keys.pop())
            if not keys:
                del self._slots[slot]
        return taken

    def _first_before(self, end: int) -> int | None:
        """The first slot before `end` that has keys; None when there is none yet."""
        slots = self._slots
        if not slots or self._next is None or self._next >= end:
            return None
        if end - self._next > len(slots):
            self._next = min(slots)
        while self._next < end and self._next not in slots:
            self._next += 1
        return self._next if self._next < end else None
