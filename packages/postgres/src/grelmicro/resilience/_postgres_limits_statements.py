"""The statements of rate limits over one table; all of them go by the server's clock."""

from grelmicro.providers._postgres_sweeps import SWEEP_ROWS

__all__ = ["Statements"]


class Statements:
    """The text of each.

    A row is what is owed of a bucket at a time, or taken of a window that ends then. It is idle
    from a whole minute on: as long as that is the same, an update touches no index.

    Args:
        table: The quoted name of the table.
        index: The quoted name of its index.
        function: The quoted name of the function that decides.
        unlogged: Whether the table is made without a log.
    """

    def __init__(self, table: str, index: str, function: str, *, unlogged: bool) -> None:
        kind = "UNLOGGED TABLE" if unlogged else "TABLE"
        self.schema = f"""\
CREATE {kind} IF NOT EXISTS {table} (
    key bytea PRIMARY KEY,
    amount bigint NOT NULL,
    at bigint NOT NULL,
    idle_from bigint NOT NULL
) WITH (fillfactor = 50);
CREATE INDEX IF NOT EXISTS {index} ON {table} (idle_from);
{_function(table, function)}"""
        self.decide = f"""
SELECT allowed, owed, remains FROM {function}(
    $1::bytea[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::boolean[])"""  # noqa: S608  # a checked name
        self.look = f"""
SELECT amount, at, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint
FROM {table} WHERE key = $1"""  # noqa: S608  # a checked name
        self.reset = f"DELETE FROM {table} WHERE key = $1"  # noqa: S608  # a checked name
        self.sweep = f"""
DELETE FROM {table} WHERE key IN (
    SELECT key FROM {table} WHERE idle_from <= extract(epoch FROM now())
    ORDER BY idle_from LIMIT {SWEEP_ROWS} FOR UPDATE SKIP LOCKED)"""  # noqa: S608  # a checked name


def _function(table: str, function: str) -> str:
    """What makes the function: one decision after the other, in the order that it is given.

    Those about one key stand together; the last of them is marked. Its row is locked when it comes
    to the first, and written after the last. What is owed at a time that is yet to come, since the
    clock was set back, is what is owed now and what was forgiven since; a window that ends later
    than one that begins now ends as that would. What surely empties or fills a bucket is not
    computed, so that all products fit a bigint.
    """
    return f"""\
CREATE OR REPLACE FUNCTION {function}(
    keys bytea[], limits bigint[], rates bigint[], units bigint[], costs bigint[], lasts boolean[]
) RETURNS TABLE (allowed boolean, owed bigint, remains bigint) LANGUAGE plpgsql AS $$
DECLARE
    asked record;
    begins boolean := true;
    changed boolean;
    moment bigint;
    since bigint;
    step bigint;
    most bigint;
BEGIN
    FOR asked IN
        SELECT * FROM unnest(keys, limits, rates, units, costs, lasts)
            AS a (name, permits, rate, unit, cost, is_last)
    LOOP
        step := CASE WHEN asked.rate = 0 THEN 1 ELSE asked.unit END;
        most := asked.permits * step;
        IF begins THEN
            LOOP
                SELECT amount, at INTO owed, since FROM {table}
                    WHERE key = asked.name FOR UPDATE;
                EXIT WHEN FOUND;
                INSERT INTO {table} (key, amount, at, idle_from) VALUES (asked.name, 0, 0, 0)
                    ON CONFLICT (key) DO NOTHING;
            END LOOP;
            moment := extract(epoch FROM clock_timestamp()) * 1000000;
            IF asked.rate = 0 THEN
                changed := since > moment + asked.unit;
                IF since <= moment THEN
                    owed := 0;
                    since := moment + asked.unit;
                END IF;
                since := least(since, moment + asked.unit);
            ELSE
                changed := since > moment;
                owed := CASE
                    WHEN moment - since > owed / asked.rate THEN 0
                    WHEN since - moment > most / asked.rate THEN most
                    ELSE least(most, owed + (since - moment) * asked.rate)
                END;
                since := moment;
            END IF;
        END IF;
        allowed := owed + asked.cost * step <= most;
        IF allowed THEN
            owed := owed + asked.cost * step;
            changed := true;
        END IF;
        remains := since - moment;
        RETURN NEXT;
        begins := asked.is_last;
        IF begins AND changed THEN
            UPDATE {table} SET amount = owed, at = since, idle_from = 60 + 60 * (
                (since + CASE WHEN asked.rate = 0 THEN 0 ELSE owed / asked.rate END) / 60000000)
                WHERE key = asked.name;
        END IF;
    END LOOP;
END $$;
"""  # noqa: S608  # a checked name
