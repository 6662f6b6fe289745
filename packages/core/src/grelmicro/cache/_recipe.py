"""How one function's results are found, made and kept: the policies of `cached`.

Everything here is async. A synchronous function runs the same coroutines through its cache's
`Backing.run`, so that each policy is written once.
"""

import logging
import math
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Literal, NamedTuple, TypeVar

from grelmicro.cache._arguments import KeyMaker
from grelmicro.cache._checks import SHORTEST_TTL
from grelmicro.cache._fleet import FleetLock
from grelmicro.cache._loads import Load
from grelmicro.cache._reader import MISS
from grelmicro.cache.ttl import TTLCache
from grelmicro.errors import CacheError

__all__ = ["Call", "Found", "Policy", "Recipe", "Timer"]

T = TypeVar("T")

_log = logging.getLogger("grelmicro.cache")


class Call(NamedTuple):
    """One call of the function, with its key."""

    key: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class Found(NamedTuple):
    """What the cache had for a call."""

    value: Any
    left: float = math.inf
    """Seconds that it stays fresh; below zero it may still be served if the function fails."""
    cost: float = 0.0
    """Seconds that it took to make."""
    fresh: bool = True
    """Whether to serve it: it is in time, and no early refresh was drawn."""


@dataclass(frozen=True)
class Policy:
    """What `cached` was asked for; see there."""

    skip: Callable[[Any], bool] | None = None
    jitter: float = 0.0
    early: float = 0.0
    stale_ttl: float = 0.0
    tags: tuple[KeyMaker, ...] = ()

    @property
    def needs_ttl(self) -> bool:
        """Whether a lookup has to know the time an entry has left."""
        return bool(self.early or self.stale_ttl)

    @property
    def needs_envelope(self) -> bool:
        """Whether an entry has to say more than its value."""
        return bool(self.early or self.tags)

    @property
    def is_plain(self) -> bool:
        """Whether every entry that is there is a hit."""
        return not (self.needs_ttl or self.needs_envelope)


class Timer:
    """Measures what a value cost to make, and fixes the tag versions it was made under."""

    def __init__(self, versions: tuple[bytes, ...]) -> None:
        self.versions = versions
        self._started = perf_counter()

    def cost(self) -> float:
        """Seconds since the function began."""
        return perf_counter() - self._started


class Recipe:
    """Finds, makes and keeps the results of one function in one cache."""

    def __init__(
        self, cache: TTLCache[Any], function: Callable[..., Any], make_key: KeyMaker, policy: Policy
    ) -> None:
        self.cache = cache
        self.function = function
        self.make_key = make_key
        self.policy = policy
        self._name = getattr(function, "__qualname__", repr(function))
        self._outages = {"read": False, "write": False}
        self._turned = {"read": 0.0, "write": 0.0}
        """When each outage began or ended last: who set out before that has nothing new to tell."""
        self.fleet = FleetLock(self._name)
        cache._admit(cache.ttl + policy.stale_ttl, envelopes=policy.needs_envelope)

    @property
    def is_without_backend(self) -> bool:
        """Whether what was stored by others cannot be read at the moment."""
        return self._outages["read"]

    async def find(self, call: Call) -> Found | None:
        """Look the call up; None where nothing is to be had, an unreachable backend included."""
        return await self._tolerant("read", self._find(call), None)

    async def find_again(self, call: Call, before: Found | None) -> Found | None:
        """Look whether another caller has refreshed the entry since `before` was found."""
        if self._outages["read"]:
            return None  # `find` has just waited for it
        found = await self._tolerant("read", self._look(call), None)
        if found is None or found.left <= 0 or (before is not None and found.left <= before.left):
            return None
        return found

    async def begin(self, call: Call) -> Timer:
        """Prepare to run the function."""
        if self._outages["read"]:
            return Timer(())
        return Timer(await self._tolerant("read", self._versions(call), ()))

    async def keep(self, load: Load, value: Any, timer: Timer) -> None:
        """Store what the function returned, unless it is to be skipped."""
        policy = self.policy
        if self._outages["read"] or (policy.skip is not None and policy.skip(value)):
            return
        if len(timer.versions) != len(policy.tags):
            return  # the backend was away: without its tags the entry could never be invalidated
        cost = timer.cost() if policy.early else 0.0
        data = self.cache._codec.encode(value, cost, timer.versions)
        fresh = self.cache.ttl * (1 - policy.jitter * random.random())  # noqa: S311  # no secret
        lifetime = max(fresh, SHORTEST_TTL) + policy.stale_ttl
        await self._tolerant("write", self.cache._store(load, data, lifetime), None)

    def instead(self, found: Found | None, error: Exception) -> Any:
        """The value to serve in the place of one that could not be made.

        Raises:
            Exception: `error` itself, when there is no such value.
        """
        if found is None:
            raise error
        _log.warning(
            "%s failed (%s); the cached value is served instead",
            self._name,
            type(error).__name__,
        )
        return found.value

    async def _find(self, call: Call) -> Found | None:
        if self.policy.is_plain:
            value = await self.cache._fetch(call.key)
            return None if value is MISS else Found(value)
        found = await self._look(call)
        fresh = found is not None and found.left > 0 and not self._is_due_early(found)
        self.cache._count(self.cache._full(call.key), hit=fresh)
        return None if found is None else found._replace(fresh=fresh)

    async def _look(self, call: Call) -> Found | None:
        full = self.cache._full(call.key)
        if self.policy.is_plain:
            value = await self.cache._peek(full)
            return None if value is MISS else Found(value)
        entry = await self._entry(full)
        if entry is None:
            return None
        value, envelope = self.cache._codec.open(entry[0])
        if value is MISS or envelope.versions != await self._versions(call):
            return None
        return Found(value, entry[1] - self.policy.stale_ttl, envelope.cost)

    async def _entry(self, full: str) -> tuple[bytes, float] | None:
        if self.policy.needs_ttl:
            return await self.cache._backing.get_with_ttl(full)
        data = await self.cache._backing.get(full)
        return None if data is None else (data, math.inf)

    def _is_due_early(self, found: Found) -> bool:
        """Draw whether this caller refreshes ahead of time.

        XFetch: Vattani, Chierichetti, Lowenstein, "Optimal Probabilistic Cache Stampede
        Prevention", VLDB 2015.
        """
        draw = -math.log(1 - random.random())  # noqa: S311  # no secret
        return found.cost * self.policy.early * draw >= found.left

    async def _versions(self, call: Call) -> tuple[bytes, ...]:
        if not self.policy.tags:
            return ()
        tags = [make(self.function, call.args, call.kwargs) for make in self.policy.tags]
        return await self.cache._tag_versions(tags)

    async def _tolerant(
        self, way: Literal["read", "write"], coroutine: Awaitable[T], otherwise: T
    ) -> T:
        """Do without the backend while it fails; say so once, and again when it is back.

        One that is read from and refuses writes, as a full server does, is not back.
        """
        began = perf_counter()
        try:
            result = await coroutine
        except CacheError as error:
            if self._turn(way, began, failing=True):
                _log.warning("the cache fails to %s (%s); %s does without", way, error, self._name)
            return otherwise
        if self._turn(way, began, failing=False):
            _log.warning("the cache can %s again for %s", way, self._name)
        return result

    def _turn(self, way: Literal["read", "write"], began: float, *, failing: bool) -> bool:
        """Note how an attempt that set out at `began` went; whether that is news."""
        if self._outages[way] is failing or began < self._turned[way]:
            return False
        self._outages[way], self._turned[way] = failing, perf_counter()
        return True
