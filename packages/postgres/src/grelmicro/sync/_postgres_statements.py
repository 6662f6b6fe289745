"""The statements of locks over one table; all of them go by the server's clock."""

__all__ = ["Statements"]

_IDLE = "1 hour"
"""The time after which a row whose lease is over is removed."""


class Statements:
    """The text of each.

    A row outlives its lease, so that the next holder's number is drawn while the row is locked:
    that is what makes numbers rise in the order of holders. `token` is NULL in a row that was given
    back. There is no index on `expires_at`, which would make every renewal write to it.

    Args:
        table: The quoted name of the table.
        sequence: The quoted name of the sequence that fencing tokens are drawn from.
        channel: Where it is said for whom a lease is kept that was given back.
        grace: Seconds for which it is.
        rows: How many rows a sweep removes at most.
    """

    def __init__(self, table: str, sequence: str, *, channel: str, grace: float, rows: int) -> None:
        self.schema = f"""\
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
        number = f"nextval('{sequence}')"
        end = "clock_timestamp() + $3::float8 * interval '1 second'"
        alive = "expires_at > clock_timestamp()"
        self.acquire = f"""
INSERT INTO {table} AS l (name, token, fencing, expires_at) VALUES ($1, $2, {number}, {end})
ON CONFLICT (name) DO UPDATE SET
    token = EXCLUDED.token,
    fencing = CASE WHEN l.token = $2 AND l.{alive} THEN l.fencing ELSE {number} END,
    expires_at = {end},
    kept_for = NULL
WHERE (l.token IS NULL OR l.token = $2 OR NOT l.{alive})
    AND (l.kept_for IS NULL OR l.kept_for = $4 OR l.kept_until <= clock_timestamp())
RETURNING fencing"""  # noqa: S608  # a checked name
        self.hand_over = f"""
UPDATE {table} SET
    token = $3,
    fencing = CASE WHEN token = $3 THEN fencing ELSE {number} END,
    expires_at = {end.replace("$3", "$4")}
WHERE name = $1 AND token IN ($2, $3) AND {alive}
RETURNING fencing"""  # noqa: S608  # a checked name
        self.release = f"""
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
FROM freed"""  # noqa: S608  # a checked name
        """A release may be lost in a crash, and need not wait for the disk: its lease ends. Nobody
        is told unless somebody waits: messages make all commits of a server stand in line."""

        held = f"FROM {table} WHERE name = $1 AND token IS NOT NULL AND {alive}"
        self.locked = f"SELECT 1 {held}"
        self.owned = f"SELECT 1 {held} AND token = $2"
        self.enlist = f"""
UPDATE {table} SET waiting = array_append(waiting, $2)
WHERE name = $1 AND NOT $2 = ANY (waiting)"""  # noqa: S608  # a checked name
        self.delist = f"""
UPDATE {table} SET waiting = array_remove(waiting, $2)
WHERE name = $1 AND $2 = ANY (waiting)"""  # noqa: S608  # a checked name
        self.sweep = f"""
DELETE FROM {table} WHERE name IN (
    SELECT name FROM {table} WHERE expires_at < now() - interval '{_IDLE}'
    LIMIT {rows} FOR UPDATE SKIP LOCKED
)"""  # noqa: S608  # a checked name
