"""Who waits for a lock in this process: first come, first served."""

import asyncio
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from grelmicro.sync._holds import Hold
    from grelmicro.sync._leasing import Leasing

__all__ = ["Front", "Place", "Queues"]

Place = asyncio.Future[None] | None
"""Where somebody stands: a future that is done when all who came before have gone; None at once."""


class Front:
    """The first of those who wait: the only one who talks to the backend.

    Args:
        leasing: What it waits for.
    """

    __slots__ = ("_nudge", "hold", "leasing")

    def __init__(self, leasing: "Leasing") -> None:
        self.leasing = leasing
        self.hold: Hold | None = None
        """What was handed over to it by a holder of this process."""
        self._nudge: asyncio.Future[None] | None = None

    def watch(self) -> "asyncio.Future[None]":
        """A future that is done when the lease may be free, or is handed over."""
        self._nudge = asyncio.get_running_loop().create_future()
        if self.hold is not None:
            self._nudge.set_result(None)
        return self._nudge

    def wake(self) -> None:
        """The lease was given back, or handed over."""
        if self._nudge is not None and not self._nudge.done():
            self._nudge.set_result(None)

    def take(self) -> "Hold | None":
        """What was handed over, if anything; it is no longer here then."""
        hold, self.hold = self.hold, None
        return hold


class _Line:
    """Two or more who want the same lease; the first has no future if it never had to wait."""

    __slots__ = ("holder", "places")

    def __init__(self) -> None:
        self.places: deque[Place] = deque([None])
        self.holder: Hold | None = None
        """What the one before the first was granted, until it is given back."""


class Queues:
    """Everybody who waits in this process, by what they wait for."""

    def __init__(self) -> None:
        self.lines: dict[str, _Line | None] = {}
        """Everybody who asks or waits; None: somebody, and nobody behind."""
        self.fronts: dict[str, Front] = {}
        """Those who are at the front, and had to wait."""

    def enter(self, key: str) -> Place:
        """Stand behind all who are here."""
        if key not in self.lines:
            self.lines[key] = None
            return None
        line = self.lines[key] or _Line()
        self.lines[key] = line
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        line.places.append(place)
        return place

    def leave(self, key: str, place: Place, hold: "Hold | None") -> None:
        """Go, with what one was granted; the next one is at the front."""
        line = self.lines[key]
        if line is None or len(line.places) == 1:
            del self.lines[key]
            return
        is_first = line.places[0] is place
        line.places.remove(place)
        if is_first:
            line.holder = hold
            first = line.places[0]
            if first is not None and not first.done():
                first.set_result(None)

    def holder(self, key: str) -> "Hold | None":
        """Who was served before the one at the front, and holds the lease still."""
        line = self.lines.get(key)
        return line.holder if line is not None else None

    def given_back(self, hold: "Hold") -> None:
        """Somebody is about to give a lease back."""
        line = self.lines.get(hold.key)
        if line is not None and line.holder is hold:
            line.holder = None
