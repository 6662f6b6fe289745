"""The components of limiters and breakers."""

from grelmicro._component import Component
from grelmicro.resilience._contract import CircuitBreakerBackend
from grelmicro.resilience._limiter_contract import RateLimiterBackend

__all__ = ["Breaker", "RateLimit"]


class RateLimit(Component[RateLimiterBackend]):
    """Rate limiting served by an app: `RateLimit(provider)` or `RateLimit(adapter)`."""

    kind = "ratelimiter"


class Breaker(Component[CircuitBreakerBackend]):
    """Circuit breaking served by an app: `Breaker(provider)` or `Breaker(adapter)`."""

    kind = "circuitbreaker"
