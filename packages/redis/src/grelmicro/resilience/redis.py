"""The resilience backends that keep their state in Redis."""

from grelmicro.resilience._redis_breakers import RedisCircuitBreakerAdapter
from grelmicro.resilience._redis_limits import RedisRateLimiterAdapter

__all__ = ["RedisCircuitBreakerAdapter", "RedisRateLimiterAdapter"]
