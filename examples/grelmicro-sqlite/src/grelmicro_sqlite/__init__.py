"""Caches, locks, rate limits and circuit breakers in one SQLite file, for all who open it."""

from grelmicro_sqlite.breaker import SQLiteCircuitBreakerAdapter
from grelmicro_sqlite.cache import SQLiteCacheAdapter
from grelmicro_sqlite.provider import SQLiteProvider
from grelmicro_sqlite.ratelimiter import SQLiteRateLimiterAdapter
from grelmicro_sqlite.sync import SQLiteSyncAdapter

__all__ = [
    "SQLiteCacheAdapter",
    "SQLiteCircuitBreakerAdapter",
    "SQLiteProvider",
    "SQLiteRateLimiterAdapter",
    "SQLiteSyncAdapter",
]
