"""The cache: a row of bytes for each entry."""

from collections.abc import Mapping

from grelmicro_sqlite.provider import SQLiteAdapter, Transaction
from grelmicro_sqlite.schema import NOW, microseconds

__all__ = ["SQLiteCacheAdapter"]

_GET = f"""
SELECT value, expires_at - {NOW} FROM cache
WHERE prefix = :prefix AND key = :key AND expires_at > {NOW}"""

_SET = """
INSERT INTO cache VALUES (:prefix, :key, :value, :now + :life) ON CONFLICT (prefix, key)
DO UPDATE SET value = excluded.value, expires_at = excluded.expires_at"""

_TOUCH = """
UPDATE cache SET expires_at = :now + :life
WHERE prefix = :prefix AND key = :key AND expires_at > :now RETURNING 1"""

_DELETE = "DELETE FROM cache WHERE prefix = :prefix AND key = :key"

_CLEAR = """
DELETE FROM cache WHERE prefix = :prefix
AND (:start = x'' OR substr(key, 1, length(:start)) = :start)"""


class SQLiteCacheAdapter(SQLiteAdapter):
    """A cache in a file. Who stores entries also removes some that have expired."""

    async def get(self, *, key: str) -> bytes | None:
        """Get the bytes under `key`; None when there are none, or they have expired."""
        found = await self.get_with_ttl(key=key)
        return found[0] if found else None

    async def get_with_ttl(self, *, key: str) -> tuple[bytes, float] | None:
        """Get the bytes and the seconds they will live; None when there are none."""
        rows = await self.provider.read(_GET, prefix=self._prefix, key=key.encode())
        return (rows[0][0], rows[0][1] / 1e6) if rows else None

    async def set(self, *, key: str, value: bytes, ttl: float) -> None:
        """Store bytes for `ttl` seconds."""
        await self.set_many(entries={key: value}, ttl=ttl)

    async def set_many(self, *, entries: Mapping[str, bytes], ttl: float) -> None:
        """Store every entry for `ttl` seconds, in one transaction."""
        rows = [(key.encode(), value) for key, value in entries.items()]

        async def store(transaction: Transaction) -> None:
            await transaction.sweep("cache", transaction.now)
            for key, value in rows:
                await transaction.run(
                    _SET, prefix=self._prefix, key=key, value=value, life=microseconds(ttl)
                )

        await self.provider.transact(store)

    async def touch(self, *, key: str, ttl: float) -> bool:
        """Let an entry live `ttl` seconds from now; False when there is none."""
        return bool(
            await self.provider.write(
                _TOUCH, prefix=self._prefix, key=key.encode(), life=microseconds(ttl)
            )
        )

    async def delete(self, *, key: str) -> None:
        """Delete a key; nothing happens when it is absent."""
        await self.provider.write(_DELETE, prefix=self._prefix, key=key.encode())

    async def clear(self, *, prefix: str = "") -> None:
        """Remove the entries whose key begins with `prefix`; all of the adapter's by default."""
        await self.provider.write(_CLEAR, prefix=self._prefix, start=prefix.encode())
