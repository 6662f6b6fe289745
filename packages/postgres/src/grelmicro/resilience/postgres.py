"""The resilience backends that keep their state in Postgres."""

from grelmicro.resilience._postgres_breakers import PostgresCircuitBreakerAdapter
from grelmicro.resilience._postgres_limits import PostgresRateLimiterAdapter

__all__ = ["PostgresCircuitBreakerAdapter", "PostgresRateLimiterAdapter"]
