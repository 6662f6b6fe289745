"""The statements of circuit breakers over one table; all of them go by the server's clock."""

from grelmicro.providers._postgres_sweeps import SWEEP_ROWS

__all__ = ["Statements"]

_SCHEMA = """\
CREATE TABLE IF NOT EXISTS {table} (
    name text COLLATE "C" PRIMARY KEY,
    version bigint NOT NULL,
    state smallint NOT NULL,
    ends bigint NOT NULL,
    errors bigint NOT NULL,
    successes bigint NOT NULL,
    shape text NOT NULL,
    permits jsonb NOT NULL,
    parts jsonb NOT NULL,
    idle_from bigint
) WITH (fillfactor = 50);
"""

_CALL = """
SELECT version, state, remaining, errors, successes, granted FROM {function}(
    $1::text, $2::bigint, $3::bigint, $4::bigint, $5::bigint, $6::bigint, $7::float8, $8::float8,
    $9::bigint, $10::bigint, $11::bigint, $12::text, $13::bigint, $14::int, $15::boolean,
    $16::boolean, $17::int, $18::bigint, $19::boolean, $20::bigint, $21::bigint, $22::bigint,
    $23::bigint, $24::text[], $25::text[], $26::int[], $27::text[])"""

_LOOK = """
SELECT name, version, state::int,
    CASE state WHEN 1 THEN greatest(0,
        ends - (extract(epoch FROM clock_timestamp()) * 1000000)::bigint) ELSE 0 END,
    errors, successes
FROM {table} WHERE name = ANY($1::text[])"""

_SWEEP = """
DELETE FROM {table} WHERE name IN (
    SELECT name FROM {table} WHERE idle_from <= extract(epoch FROM now())
    LIMIT {rows} FOR UPDATE SKIP LOCKED)"""

# A row is a circuit: a number for its state (0 closed, 1 open, 2 half-open, 3 forced open, 4 forced
# closed), microseconds of the time at which its open time is over, permits with the times at which
# they are over, and parts of the window by their numbers. It is locked first: reports of one
# circuit are merged one after the other. Versions are ahead of the clock, so that they also rise
# when somebody has emptied the table. A time that is too far ahead is from before the clock was
# set back. A change is told when it is committed, which all commits with messages wait for; others
# tell nothing. A report may be lost in a crash, and need not wait for the disk, unless it says what
# somebody did by hand.
_FUNCTION = """\
CREATE OR REPLACE FUNCTION {function}(
    of_name text, lease bigint, timeout bigint, capacity bigint, threshold bigint,
    most_errors bigint, failure_rate float8, slow_rate float8, fewest bigint, width bigint,
    size bigint, of_shape text, base bigint, command int, trip boolean, fresh boolean, theirs int,
    theirs_for bigint, reset boolean, new_errors bigint, calls bigint, failures bigint, slow bigint,
    held text[], ended text[], says int[], asks text[]
) RETURNS TABLE (
    version bigint, state int, remaining bigint, errors bigint, successes bigint, granted boolean[]
) LANGUAGE plpgsql AS $$
DECLARE
    c {table}%ROWTYPE;
    moment bigint;
    known bigint;
    before bigint;
    matches boolean;
    counts boolean;
    part bigint;
    tally bigint[];
    each text;
    i int;
BEGIN
    IF command < 0 THEN
        PERFORM set_config('synchronous_commit', 'off', true);
    END IF;
    LOOP
        SELECT * INTO c FROM {table} AS t WHERE t.name = of_name FOR UPDATE;
        EXIT WHEN FOUND;
        INSERT INTO {table} VALUES (of_name, 0, 0, 0, 0, 0, of_shape, '{{}}', '{{}}', 0)
            ON CONFLICT DO NOTHING;
    END LOOP;
    moment := extract(epoch FROM clock_timestamp()) * 1000000;
    known := c.version;
    IF c.shape <> of_shape THEN
        c.parts := '{{}}';
    END IF;
    IF c.state = 1 THEN
        c.ends := least(c.ends, moment + timeout);
    END IF;
    IF c.version = 0 AND theirs > 0 THEN
        {change_to_theirs}
        base := c.version;
    END IF;
    before := c.version;

    SELECT coalesce(jsonb_object_agg(p.key, least(p.value::bigint, moment + lease)), '{{}}')
        INTO c.permits FROM jsonb_each_text(c.permits) AS p WHERE p.value::bigint > moment;
    FOREACH each IN ARRAY held LOOP
        c.permits := c.permits || jsonb_build_object(each, moment + lease);
    END LOOP;

    matches := base = c.version OR (base = 0 AND c.state = 0);
    IF command >= 0 THEN
        {change_by_hand}
    ELSIF trip AND matches AND c.state < 3 AND NOT (c.state = 1 AND c.ends > moment) THEN
        {change_to_tripped}
    END IF;

    FOR i IN 1 .. cardinality(ended) LOOP
        CONTINUE WHEN NOT c.permits ? ended[i];
        c.permits := c.permits - ended[i];
        CONTINUE WHEN c.state <> 2 OR base <> c.version;
        IF says[i] = 2 THEN
            {change_to_open}
        ELSIF says[i] = 1 THEN
            c.successes := c.successes + 1;
            IF c.successes >= threshold THEN
                {change_to_closed}
            END IF;
        END IF;
    END LOOP;

    counts := CASE WHEN fresh THEN c.version <> before ELSE matches AND c.version = before END;
    IF counts AND c.state = 0 AND width = 0 THEN
        c.errors := CASE WHEN reset THEN 0 ELSE c.errors END + new_errors;
        IF c.errors >= most_errors THEN
            {change_to_open}
        END IF;
    ELSIF counts AND c.state = 0 AND calls > 0 THEN
        part := moment / width;
        IF size > 0 THEN
            SELECT coalesce(max(k::bigint), 0) INTO part FROM jsonb_object_keys(c.parts) AS k;
            IF (c.parts -> part::text ->> 0)::bigint >= size THEN
                part := part + 1;
            END IF;
        END IF;
        c.parts := c.parts || jsonb_build_object(part::text, jsonb_build_array(
            coalesce((c.parts -> part::text ->> 0)::bigint, 0) + calls,
            coalesce((c.parts -> part::text ->> 1)::bigint, 0) + failures,
            coalesce((c.parts -> part::text ->> 2)::bigint, 0) + slow));
        SELECT jsonb_object_agg(p.key, p.value), ARRAY[sum((p.value ->> 0)::bigint),
            sum((p.value ->> 1)::bigint), sum((p.value ->> 2)::bigint)]
            INTO c.parts, tally FROM jsonb_each(c.parts) AS p
            WHERE p.key::bigint > part - 10 AND p.key::bigint <= part;
        IF tally[1] >= fewest AND (tally[2]::float8 / tally[1] >= failure_rate
            OR tally[3]::float8 / tally[1] >= slow_rate)
        THEN
            {change_to_open}
        END IF;
    END IF;

    granted := '{{}}';
    FOREACH each IN ARRAY asks LOOP
        IF c.state = 1 AND c.ends <= moment THEN
            {change_to_half_open}
        END IF;
        IF c.state = 2 AND (SELECT count(*) FROM jsonb_object_keys(c.permits)) < capacity THEN
            c.permits := c.permits || jsonb_build_object(each, moment + lease);
            granted := granted || true;
        ELSE
            granted := granted || false;
        END IF;
    END LOOP;

    c.version := CASE WHEN c.version = 0 AND c.errors + calls > 0 THEN moment ELSE c.version END;
    remaining := CASE c.state WHEN 1 THEN greatest(0, c.ends - moment) ELSE 0 END;
    UPDATE {table} AS t SET version = c.version, state = c.state, ends = c.ends,
        errors = c.errors, successes = c.successes, shape = of_shape, permits = c.permits,
        parts = c.parts, idle_from = CASE WHEN c.state < 3
            THEN (moment + timeout) / 1000000 + {keep} END
        WHERE t.name = of_name;
    IF c.version <> known THEN
        PERFORM pg_notify('{channel}', of_name);
    END IF;
    version := c.version;
    state := c.state;
    errors := c.errors;
    successes := c.successes;
    RETURN NEXT;
END $$;
"""

_CHANGE = """
        c.version := greatest(c.version + 1, moment);
        c.state := {to};
        c.ends := moment + {microseconds};
        c.errors := 0;
        c.successes := 0;
        c.parts := '{{}}';"""

_CHANGES = {
    "change_to_theirs": ("theirs", "theirs_for"),
    "change_by_hand": ("command", "theirs_for"),
    "change_to_tripped": ("1", "theirs_for"),
    "change_to_open": ("1", "timeout"),
    "change_to_closed": ("0", "0"),
    "change_to_half_open": ("2", "0"),
}


class Statements:
    """The text of each, for one table.

    Args:
        table: The quoted name of the table.
        function: The quoted name of the function that merges reports.
        channel: Where changes are told.
        keep: Seconds for which a circuit is kept that nobody reports of.
    """

    def __init__(self, table: str, function: str, *, channel: str, keep: int) -> None:
        parts = {
            "table": table,
            "function": function,
            "channel": channel,
            "keep": keep,
            "rows": SWEEP_ROWS,
        }
        changes = {
            name: _CHANGE.format(to=to, microseconds=microseconds).strip()
            for name, (to, microseconds) in _CHANGES.items()
        }
        self.schema = _SCHEMA.format(**parts) + _FUNCTION.format(**parts, **changes)
        self.exchange = _CALL.format(**parts)
        self.look = _LOOK.format(**parts)
        self.sweep = _SWEEP.format(**parts)
