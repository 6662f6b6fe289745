"""Locks: a row for each name, which outlives its lease by an hour."""

from grelmicro.sync.waiting import settle
from grelmicro_sqlite.provider import SQLiteAdapter, Transaction
from grelmicro_sqlite.schema import NOW, microseconds

__all__ = ["SQLiteSyncAdapter"]

_KEPT = 3_600_000_000
"""Microseconds for which the row of an idle lock is kept."""

# Numbers are at least the time: they rise also after a row was swept, or lost in a power failure.
_ACQUIRE = """
INSERT INTO locks VALUES (:prefix, :name, :token, :now, :now + :life) ON CONFLICT (prefix, name)
DO UPDATE SET
    fencing = CASE WHEN token = :token AND expires_at > :now THEN fencing
        ELSE max(fencing + 1, :now) END,
    token = excluded.token,
    expires_at = excluded.expires_at
WHERE token IS NULL OR token = :token OR expires_at <= :now
RETURNING fencing"""

_RELEASE = """
UPDATE locks SET token = NULL, expires_at = :now
WHERE prefix = :prefix AND name = :name AND token = :token AND expires_at > :now
RETURNING 1"""

_LOCKED = f"""
SELECT token FROM locks
WHERE prefix = :prefix AND name = :name AND token IS NOT NULL AND expires_at > {NOW}"""


class SQLiteSyncAdapter(SQLiteAdapter):
    """Locks in a file; their waiters ask every now and then."""

    async def closing(self) -> None:
        """Let what this process could not give back be given back."""
        await settle(self)

    async def acquire(self, *, name: str, token: str, duration: float) -> int:
        """Take or extend the lease; its fencing token, 0 when somebody else holds it."""

        async def take(transaction: Transaction) -> int:
            await transaction.sweep("locks", transaction.now - _KEPT)
            rows = await transaction.run(
                _ACQUIRE,
                prefix=self._prefix,
                name=name,
                token=token,
                life=microseconds(duration),
            )
            return rows[0][0] if rows else 0

        return await self.provider.transact(take)

    async def release(self, *, name: str, token: str) -> bool:
        """Give the lease back; False when `token` does not hold it."""
        return bool(
            await self.provider.write(_RELEASE, prefix=self._prefix, name=name, token=token)
        )

    async def locked(self, *, name: str) -> bool:
        """Whether anybody holds the lease."""
        return await self._holder(name) is not None

    async def owned(self, *, name: str, token: str) -> bool:
        """Whether `token` holds the lease."""
        return await self._holder(name) == token

    async def _holder(self, name: str) -> str | None:
        rows = await self.provider.read(_LOCKED, prefix=self._prefix, name=name)
        return rows[0][0] if rows else None
