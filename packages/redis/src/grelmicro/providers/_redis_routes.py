"""Which server a command goes to: the one there is, or the one that has the key's slot."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol

from redis.exceptions import (
    AskError,
    BusyLoadingError,
    ClusterDownError,
    MovedError,
    ReadOnlyError,
    TryAgainError,
)

from grelmicro.providers._redis_commands import Args, slot_of
from grelmicro.providers._redis_link import Link

__all__ = ["REFUSALS", "ClusterRoute", "Place", "Route", "SingleRoute"]

Place = tuple[str, int]
"""Host and port."""

REFUSALS = (BusyLoadingError, ClusterDownError, ReadOnlyError, TryAgainError)
"""Answers of a server that has not done a command, and may do so when it is asked again."""


_REST = 0.1
"""Seconds between two looks at the map of a cluster that nobody waits for."""


class Route(Protocol):
    """The way from a command to a server."""

    def link(self, args: Args) -> Link | None:
        """The link for a command; None when it has to be found out."""

    async def find(self, args: Args) -> Link:
        """The link for a command. Raises a RedisError when there is none."""

    def redirected(self, error: AskError, link: Link) -> Link:
        """The link that MOVED or ASK names. Raises the error where it makes no sense."""

    def distrust(self, error: Exception, link: Link) -> None:
        """Look anew where servers are, for a later try. Raises the error if there is to be none."""

    async def links(self) -> Sequence[Link]:
        """One link for each part of the key space."""

    async def drain(self) -> None:
        """Wait until nothing is in flight."""

    async def close(self) -> None:
        """End all connections."""


class SingleRoute:
    """One server, or the primary that sentinels tell of: everything goes there."""

    def __init__(self, link: Link) -> None:
        self._link = link

    def link(self, args: Args) -> Link:
        """The link."""
        return self._link

    async def find(self, args: Args) -> Link:
        """The link."""
        return self._link

    def redirected(self, error: AskError, link: Link) -> Link:
        """This is no cluster to us."""
        raise error

    def distrust(self, error: Exception, link: Link) -> None:
        """A replica where the primary was: the next connection may lead to the new primary."""
        if isinstance(error, ReadOnlyError):
            link.renew()
        elif not isinstance(error, REFUSALS):
            raise error

    async def links(self) -> Sequence[Link]:
        """The link."""
        return [self._link]

    async def drain(self) -> None:
        """Wait until nothing is in flight."""
        await self._link.drain()

    async def close(self) -> None:
        """End all connections."""
        await self._link.close()


class ClusterRoute:
    """A cluster: a link to each primary, and a map of slots that is mended as answers tell.

    Args:
        discover: Asks the cluster which primary has each slot.
        make_link: Makes the link to a place.
    """

    def __init__(
        self,
        discover: Callable[[Sequence[Place]], Awaitable[Mapping[int, Place]]],
        make_link: Callable[[Place], Link],
    ) -> None:
        self._discover = discover
        self._make_link = make_link
        self._places: dict[Link, Place] = {}
        self._links: dict[Place, Link] = {}
        self._slots: dict[int, Link] = {}
        self._gone: list[Link] = []
        self._discovery: asyncio.Task[None] | None = None
        self._looked_at = -_REST

    def link(self, args: Args) -> Link | None:
        """The link to the primary of the first key; to any one for a command without a key."""
        slot = slot_of(args)
        if slot is not None:
            return self._slots.get(slot)
        return random.choice([*self._links.values()]) if self._links else None  # noqa: S311  # no secret

    async def find(self, args: Args) -> Link:
        """The same, after looking for it."""
        if (found := self.link(args)) is None:
            await asyncio.shield(self._discovering())
            found = self.link(args)
        if found is None:
            raise ClusterDownError("no primary has the slot of this key")
        return found

    def redirected(self, error: AskError, link: Link) -> Link:
        """The link that the answer names; a slot that moved is remembered."""
        place = (error.host or self._places[link][0], error.port)
        target = self._link_at(place)
        if isinstance(error, MovedError):
            self._slots[error.slot_id] = target
            self._look_soon()
        return target

    def distrust(self, error: Exception, link: Link) -> None:
        """A failed primary may have a successor, and the next try find it."""
        self._look_soon()

    async def links(self) -> Sequence[Link]:
        """A link to each primary."""
        await asyncio.shield(self._discovering())
        return list(self._links.values())

    def _link_at(self, place: Place) -> Link:
        if place not in self._links:
            link = self._links[place] = self._make_link(place)
            self._places[link] = place
        return self._links[place]

    def _look_soon(self) -> None:
        """Look in the background, unless somebody did a moment ago."""
        if asyncio.get_running_loop().time() > self._looked_at + _REST:
            self._discovering()

    def _discovering(self) -> asyncio.Task[None]:
        """Look which primary has each slot; together with whoever looks already."""
        if self._discovery is None or self._discovery.done():
            self._discovery = asyncio.create_task(self._look())
            self._discovery.add_done_callback(_seen)
        return self._discovery

    async def _look(self) -> None:
        found = await self._discover(list(self._links))
        self._looked_at = asyncio.get_running_loop().time()
        self._slots = {slot: self._link_at(place) for slot, place in found.items()}
        self._forget({*self._links} - {*found.values()})

    def _forget(self, places: set[Place]) -> None:
        for place in places:
            link = self._links.pop(place)
            link.renew()
            self._gone.append(link)
        self._gone = [link for link in self._gone if not link.at_rest]
        self._places = {link: self._places[link] for link in [*self._links.values(), *self._gone]}

    async def drain(self) -> None:
        """Wait until nothing is in flight."""
        await asyncio.gather(*(link.drain() for link in [*self._links.values(), *self._gone]))

    async def close(self) -> None:
        """End all connections, and any search."""
        if self._discovery is not None and not self._discovery.done():
            self._discovery.cancel()
            await asyncio.wait([self._discovery])
        await asyncio.gather(*(link.close() for link in [*self._links.values(), *self._gone]))


def _seen(discovery: asyncio.Task[None]) -> None:
    if not discovery.cancelled():
        discovery.exception()  # whoever waits has it; for nobody else is it news
