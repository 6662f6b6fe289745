"""The statements of the cache over one table; all of them go by the server's clock."""

from grelmicro.providers._postgres_sweeps import SWEEP_ROWS

__all__ = ["Statements"]


class Statements:
    """The text of each.

    Args:
        table: The quoted name of the table.
        index: The quoted name of its index.
        unlogged: Whether the table is made without a log.
    """

    def __init__(self, table: str, index: str, *, unlogged: bool) -> None:
        kind = "UNLOGGED TABLE" if unlogged else "TABLE"
        self.schema = f"""\
CREATE {kind} IF NOT EXISTS {table} (
    key bytea PRIMARY KEY,
    name bytea,
    value bytea NOT NULL,
    expires_at timestamptz NOT NULL
);
CREATE INDEX IF NOT EXISTS {index} ON {table} (expires_at);
"""

        alive = "expires_at > clock_timestamp()"
        life = "clock_timestamp() + {} * interval '1 second'"
        self.get_one = f"SELECT key, value FROM {table} WHERE key = $1 AND {alive}"  # noqa: S608  # a checked name
        self.get = f"SELECT key, value FROM {table} WHERE key = ANY($1::bytea[]) AND {alive}"  # noqa: S608  # a checked name
        self.get_with_ttl = f"""
SELECT key, value, extract(epoch FROM expires_at - clock_timestamp())::float8
FROM {table} WHERE key = ANY($1::bytea[]) AND {alive}"""  # noqa: S608  # a checked name
        self.set = f"""
INSERT INTO {table} (key, name, value, expires_at)
SELECT key, name, value, {life.format("seconds")}
FROM unnest($1::bytea[], $2::bytea[], $3::bytea[], $4::float8[]) AS e (key, name, value, seconds)
ORDER BY key
ON CONFLICT (key) DO UPDATE SET value = EXCLUDED.value, expires_at = EXCLUDED.expires_at"""  # noqa: S608  # a checked name
        self.touch = f"""
UPDATE {table} SET expires_at = {life.format("$2::float8")} WHERE key = $1 AND {alive}"""  # noqa: S608  # a checked name
        self.delete = self._delete(table, "key = ANY($1::bytea[]) ORDER BY key FOR UPDATE")
        self.clear = (
            self._delete(
                table,
                "key >= $1 AND key < $2 AND coalesce(name, key) >= $3 AND coalesce(name, key) < $4 "
                f"ORDER BY key LIMIT {SWEEP_ROWS} FOR UPDATE",
            )
            + " RETURNING key"
        )
        self.sweep = self._delete(
            table,
            # now() and not the clock itself, which no index can be searched for
            f"expires_at <= now() ORDER BY expires_at LIMIT {SWEEP_ROWS} FOR UPDATE SKIP LOCKED",
        )

    def _delete(self, table: str, which: str) -> str:
        """Delete rows that were locked in an order: batches that overlap never block each other."""
        return f"DELETE FROM {table} WHERE key IN (SELECT key FROM {table} WHERE {which})"  # noqa: S608  # a checked name
