"""The tables, and the clock that all of them go by."""

from time import time_ns

__all__ = ["NOW", "SCHEMA", "TICK", "microseconds", "wall"]

SCHEMA = """
CREATE TABLE IF NOT EXISTS clock (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    last INTEGER NOT NULL,
    shift INTEGER NOT NULL
);
INSERT OR IGNORE INTO clock VALUES (1, 0, 0);
CREATE TABLE IF NOT EXISTS cache (
    prefix TEXT NOT NULL,
    key BLOB NOT NULL,
    value BLOB NOT NULL,
    expires_at INTEGER NOT NULL,
    UNIQUE (prefix, key)
);
CREATE INDEX IF NOT EXISTS cache_expires_at ON cache (expires_at);
CREATE TABLE IF NOT EXISTS locks (
    prefix TEXT NOT NULL,
    name TEXT NOT NULL,
    token TEXT,
    fencing INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    UNIQUE (prefix, name)
);
CREATE INDEX IF NOT EXISTS locks_expires_at ON locks (expires_at);
CREATE TABLE IF NOT EXISTS quotas (
    prefix TEXT NOT NULL,
    key TEXT NOT NULL,
    state TEXT NOT NULL,
    expires_at INTEGER NOT NULL,
    UNIQUE (prefix, key)
);
CREATE INDEX IF NOT EXISTS quotas_expires_at ON quotas (expires_at);
CREATE TABLE IF NOT EXISTS breakers (
    prefix TEXT NOT NULL,
    name TEXT NOT NULL,
    state TEXT NOT NULL,
    expires_at INTEGER NOT NULL,
    UNIQUE (prefix, name)
);
CREATE INDEX IF NOT EXISTS breakers_expires_at ON breakers (expires_at);
"""

# Times are microseconds of the wall clock, which all processes of the file share, plus a shift that
# grows by as much as the clock was set back: together they never go back, nor stand still.
TICK = """
UPDATE clock SET shift = max(shift, last - :wall), last = max(last, :wall + shift) RETURNING last"""
"""Advances the clock in a transaction, and tells its time; `:wall` is the wall clock's."""

NOW = "(SELECT max(last, :wall + shift) FROM clock)"
"""The time, in a statement that only reads."""

_LONGEST = 10**17
"""Microseconds, 3000 years: what an integer has room for."""


def wall() -> int:
    """The wall clock, in microseconds."""
    return time_ns() // 1000


def microseconds(seconds: float) -> int:
    """Seconds in microseconds: from 1 to 3000 years of them."""
    return max(1, round(min(seconds * 1e6, _LONGEST)))
