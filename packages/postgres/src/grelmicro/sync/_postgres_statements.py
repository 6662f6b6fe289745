"""The statements of locks over one table; all of them go by the server's clock.

A row outlives its lease, so that the next holder's number is drawn while the row is locked: that is
what makes numbers rise in the order of holders. `token` is NULL in a row that was given back. There
is no index on `expires_at`, which would make every renewal write to it.
"""

__all__ = ["Statements"]

_SCHEMA = """\
CREATE SEQUENCE IF NOT EXISTS {sequence};
CREATE TABLE IF NOT EXISTS {table} (
    name text COLLATE "C" PRIMARY KEY,
    token text,
    fencing bigint NOT NULL,
    expires_at timestamptz NOT NULL,
    kept_for text,
    kept_until timestamptz,
    waiting text[] NOT NULL DEFAULT '{{}}'
) WITH (fillfactor = 50);
"""

_ACQUIRE = """
INSERT INTO {table} AS l (name, token, fencing, expires_at)
VALUES ($1, $2, {number}, clock_timestamp() + $3::float8 * interval '1 second')
ON CONFLICT (name) DO UPDATE SET
    token = EXCLUDED.token,
    fencing = CASE WHEN l.token = $2 AND l.{alive} THEN l.fencing ELSE {number} END,
    expires_at = clock_timestamp() + $3::float8 * interval '1 second',
    kept_for = NULL
WHERE (l.token IS NULL OR l.token = $2 OR NOT l.{alive})
    AND (l.kept_for IS NULL OR l.kept_for = $4 OR l.kept_until <= clock_timestamp())
RETURNING fencing"""

_HAND_OVER = """
UPDATE {table} SET
    token = $3,
    fencing = CASE WHEN token = $3 THEN fencing ELSE {number} END,
    expires_at = clock_timestamp() + $4::float8 * interval '1 second'
WHERE name = $1 AND token IN ($2, $3) AND {alive}
RETURNING fencing"""

# A release may be lost in a crash, and need not wait for the disk: its lease ends. Nobody is told
# unless somebody waits: messages make all commits of a server stand in line.
_RELEASE = """
WITH freed AS (
    UPDATE {table} SET
        token = NULL,
        expires_at = clock_timestamp(),
        kept_for = (array_remove(waiting, $3))[1],
        kept_until = clock_timestamp() + {grace} * interval '1 second',
        waiting = (array_remove(waiting, $3))[2:]
    WHERE name = $1 AND token = $2 AND {alive}
    RETURNING name, kept_for
)
SELECT set_config('synchronous_commit', 'off', true),
    CASE WHEN kept_for IS NOT NULL THEN pg_notify('{channel}', kept_for || ' ' || name) END
FROM freed"""

_LOCKED = "SELECT 1 FROM {table} WHERE name = $1 AND token IS NOT NULL AND {alive}"

_OWNED = "SELECT 1 FROM {table} WHERE name = $1 AND token = $2 AND {alive}"

_ENLIST = """
UPDATE {table} SET waiting = array_append(waiting, $2)
WHERE name = $1 AND NOT $2 = ANY (waiting)"""

_DELIST = """
UPDATE {table} SET waiting = array_remove(waiting, $2)
WHERE name = $1 AND $2 = ANY (waiting)"""

_SWEEP = """
DELETE FROM {table} WHERE name IN (
    SELECT name FROM {table} WHERE expires_at < now() - interval '1 hour'
    LIMIT {rows} FOR UPDATE SKIP LOCKED
)"""


class Statements:
    """The text of each, for one table.

    Args:
        table: The quoted name of the table.
        sequence: The quoted name of the sequence that fencing tokens are drawn from.
        channel: Where it is said for whom a lease is kept that was given back.
        grace: Seconds for which it is.
        rows: How many rows a sweep removes at most.
    """

    def __init__(self, table: str, sequence: str, *, channel: str, grace: float, rows: int) -> None:
        parts = {
            "table": table,
            "sequence": sequence,
            "number": f"nextval('{sequence}')",
            "alive": "expires_at > clock_timestamp()",
            "channel": channel,
            "grace": grace,
            "rows": rows,
        }
        self.schema = _SCHEMA.format(**parts)
        self.acquire = _ACQUIRE.format(**parts)
        self.hand_over = _HAND_OVER.format(**parts)
        self.release = _RELEASE.format(**parts)
        self.locked = _LOCKED.format(**parts)
        self.owned = _OWNED.format(**parts)
        self.enlist = _ENLIST.format(**parts)
        self.delist = _DELIST.format(**parts)
        self.sweep = _SWEEP.format(**parts)
