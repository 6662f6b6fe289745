"""Rate limits: a row for each key that is not at its full quota."""

from grelmicro.resilience import RateLimitConfig, RateLimitResult
from grelmicro.resilience.quotas import Quota, Window, quota_of
from grelmicro_sqlite.provider import SQLiteAdapter, Transaction
from grelmicro_sqlite.schema import NOW

__all__ = ["SQLiteRateLimiterAdapter", "SQLiteStrategy"]

_LOOK = f"SELECT state, {NOW} FROM quotas WHERE prefix = :prefix AND key = :key"

_FIND = "SELECT state FROM quotas WHERE prefix = :prefix AND key = :key"

_KEEP = """
INSERT INTO quotas VALUES (:prefix, :key, :state, :full_at) ON CONFLICT (prefix, key)
DO UPDATE SET state = excluded.state, expires_at = excluded.expires_at"""

_FORGET = "DELETE FROM quotas WHERE prefix = :prefix AND key = :key"


def _taken(
    quota: Quota, state: str | None, now: int, cost: int
) -> tuple[RateLimitResult, str, int]:
    """Take permits of a state; the decision, the state after it, and when that is full again."""
    held, at = map(int, state.split()) if state else (0, 0)
    held, left = quota.at(held, at, now)
    if isinstance(quota, Window):
        left = left or quota.unit
        allowed = held + cost <= quota.limit
        held += cost if allowed else 0
        return quota.result(allowed, held, left, cost), f"{held} {now + left}", now + left
    allowed = held + cost * quota.unit <= quota.full
    held += cost * quota.unit if allowed else 0
    return quota.result(allowed, held, 0, cost), f"{held} {now}", now - (-held // quota.rate)


class SQLiteRateLimiterAdapter(SQLiteAdapter):
    """Rate limits in a file, exact to the last permit. Who asks also removes rows of idle keys."""

    def bind(self, config: RateLimitConfig) -> "SQLiteStrategy":
        """The strategy of a configuration; what it knows is in the file.

        Raises:
            ResilienceSettingsValidationError: It is none of the three.
        """
        return SQLiteStrategy(self, quota_of(config))

    async def take(self, key: str, quota: Quota, cost: int) -> RateLimitResult:
        """Take permits if they are there, in one transaction."""
        row = {"prefix": self._prefix, "key": key}

        async def decide(transaction: Transaction) -> RateLimitResult:
            await transaction.sweep("quotas", transaction.now)
            found = await transaction.run(_FIND, **row)
            known = found[0][0] if found else None
            result, state, full_at = _taken(quota, known, transaction.now, cost)
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

    def __init__(self, adapter: SQLiteRateLimiterAdapter, quota: Quota) -> None:
        self._adapter = adapter
        self._quota = quota

    async def acquire(self, *, key: str, cost: int) -> RateLimitResult:
        """Take permits if they are there."""
        return await self._adapter.take(self._named(key), self._quota, cost)

    async def peek(self, *, key: str, cost: int) -> RateLimitResult:
        """Tell what there is."""
        state, now = await self._adapter.look(self._named(key))
        held, at = map(int, state.split()) if state else (0, 0)
        return self._quota.look(*self._quota.at(held, at, now), cost)

    async def reset(self, *, key: str) -> None:
        """Give the key its full quota."""
        await self._adapter.forget(self._named(key))

    def _named(self, key: str) -> str:
        return f"{self._quota.tag} {key}"
