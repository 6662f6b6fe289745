"""Rate limits: a row for each key that is not at its full quota."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from fractions import Fraction

from grelmicro.errors import ResilienceSettingsValidationError
from grelmicro.resilience import (
    FixedWindowConfig,
    RateLimitConfig,
    RateLimitResult,
    SlidingWindowConfig,
    TokenBucketConfig,
)
from grelmicro_sqlite.provider import SQLiteAdapter, Transaction
from grelmicro_sqlite.schema import NOW

__all__ = ["SQLiteRateLimiterAdapter", "SQLiteStrategy"]

_LOOK = f"SELECT state, {NOW} FROM quotas WHERE prefix = :prefix AND key = :key"

_FIND = "SELECT state FROM quotas WHERE prefix = :prefix AND key = :key"

_KEEP = """
INSERT INTO quotas VALUES (:prefix, :key, :state, :full_at) ON CONFLICT (prefix, key)
DO UPDATE SET state = excluded.state, expires_at = excluded.expires_at"""

_FORGET = "DELETE FROM quotas WHERE prefix = :prefix AND key = :key"

_SECOND = 1_000_000


class _Quota(ABC):
    """The arithmetic of a configuration. States are texts, times microseconds."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Its numbers: what tells its keys from those of others."""

    @abstractmethod
    def take(self, state: str | None, now: int, cost: int) -> tuple[RateLimitResult, str, int]:
        """Take permits of a state; the decision, the state after it, and when that is full."""


@dataclass(frozen=True)
class _Bucket(_Quota):
    """A bucket is known by the time at which it is full again (GCRA, ITU-T I.371): a fraction."""

    limit: int
    each: Fraction
    """Microseconds in which a permit comes back."""

    @property
    def name(self) -> str:
        return f"bucket {self.limit} {self.each}"

    def take(self, state: str | None, now: int, cost: int) -> tuple[RateLimitResult, str, int]:
        most = self.limit * self.each
        owed = max(Fraction(0), Fraction(state or 0) - now)
        excess = owed + cost * self.each - most
        if excess <= 0:
            owed += cost * self.each
        result = RateLimitResult(
            excess <= 0,
            self.limit,
            math.floor((most - owed) / self.each),
            max(0.0, math.ceil(excess) / _SECOND),
            math.ceil(owed) / _SECOND,
        )
        return result, str(now + owed), now + math.ceil(owed)


@dataclass(frozen=True)
class _Window(_Quota):
    """A window is known by what was taken of it, and its end."""

    limit: int
    width: int
    """Microseconds."""

    @property
    def name(self) -> str:
        return f"window {self.limit} {self.width}"

    def take(self, state: str | None, now: int, cost: int) -> tuple[RateLimitResult, str, int]:
        taken, end = map(int, state.split()) if state else (0, 0)
        if end <= now:
            taken, end = 0, now + self.width
        allowed = taken + cost <= self.limit
        taken += cost if allowed else 0
        left = (end - now) / _SECOND
        result = RateLimitResult(
            allowed,
            self.limit,
            self.limit - taken,
            0.0 if allowed else left,
            left if taken else 0.0,
        )
        return result, f"{taken} {end}", end


class SQLiteRateLimiterAdapter(SQLiteAdapter):
    """Rate limits in a file, exact to the last permit. Who asks also removes rows of idle keys."""

    def bind(self, config: RateLimitConfig) -> "SQLiteStrategy":
        """The strategy of a configuration; what it knows is in the file.

        Raises:
            ResilienceSettingsValidationError: It is none of the three.
        """
        return SQLiteStrategy(self, _quota_of(config))

    async def take(self, key: str, quota: _Quota, cost: int) -> RateLimitResult:
        """Take permits if they are there, in one transaction."""
        row = {"prefix": self._prefix, "key": key}

        async def decide(transaction: Transaction) -> RateLimitResult:
            await transaction.sweep("quotas", transaction.now)
            found = await transaction.run(_FIND, **row)
            known = found[0][0] if found else None
            result, state, full_at = quota.take(known, transaction.now, cost)
            if result.allowed:
                await transaction.run(_KEEP, **row, state=state, full_at=full_at)
            return result

        return await self.provider.transact(decide)

    async def look(self, key: str) -> tuple[str | None, int]:
        """What is known of a key, and the time."""
        rows = await self.provider.read(_LOOK, prefix=self._prefix, key=key)
        return (rows[0][0], rows[0][1]) if rows else (None, 0)

    async def forget(self, key: str) -> None:
        """Remove what is known of a key."""
        await self.provider.write(_FORGET, prefix=self._prefix, key=key)


class SQLiteStrategy:
    """Decides about the keys of one configuration.

    Args:
        adapter: Where the quotas are.
        quota: What to decide by; strategies of equal ones share what they know.
    """

    def __init__(self, adapter: SQLiteRateLimiterAdapter, quota: _Quota) -> None:
        self._adapter = adapter
        self._quota = quota

    async def acquire(self, *, key: str, cost: int) -> RateLimitResult:
        """Take permits if they are there."""
        return await self._adapter.take(self._named(key), self._quota, cost)

    async def peek(self, *, key: str, cost: int) -> RateLimitResult:
        """Tell what there is."""
        state, now = await self._adapter.look(self._named(key))
        looked = self._quota.take(state, now, cost)[0]
        if not looked.allowed:
            return looked
        return self._quota.take(state, now, 0)[0]

    async def reset(self, *, key: str) -> None:
        """Give the key its full quota."""
        await self._adapter.forget(self._named(key))

    def _named(self, key: str) -> str:
        return f"{self._quota.name} {key}"


def _quota_of(config: RateLimitConfig) -> _Quota:
    match config:
        case TokenBucketConfig():
            return _Bucket(config.capacity, _SECOND / _exact(config.refill_rate))
        case SlidingWindowConfig():
            return _Bucket(config.limit, _SECOND * _exact(config.window) / config.limit)
        case FixedWindowConfig():
            return _Window(config.limit, round(config.window * _SECOND))
    raise ResilienceSettingsValidationError(
        "config: expected a TokenBucketConfig, SlidingWindowConfig or FixedWindowConfig, "
        f"not {type(config).__name__}"
    )


def _exact(number: float) -> Fraction:
    """What was written: of 0.1, one tenth."""
    return Fraction(repr(number))
