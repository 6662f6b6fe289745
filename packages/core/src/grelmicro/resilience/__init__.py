"""Resilience: rate limiters, circuit breakers, their backends' contracts and components."""

import pkgutil

__path__ = pkgutil.extend_path(__path__, __name__)

from grelmicro.errors import (
    CircuitBreakerError,
    RateLimitExceededError,
    ResilienceError,
    ResilienceSettingsValidationError,
)
from grelmicro.resilience._breaker_config import CircuitBreakerConfig
from grelmicro.resilience._breaker_state import (
    CircuitBreakerEvent,
    CircuitBreakerMetrics,
    CircuitBreakerState,
)
from grelmicro.resilience._circuit import Circuit
from grelmicro.resilience._circuit_breaker import CircuitBreaker
from grelmicro.resilience._components import Breaker, RateLimit
from grelmicro.resilience._contract import CircuitBreakerBackend
from grelmicro.resilience._limiter_contract import RateLimiterBackend, RateLimiterStrategy
from grelmicro.resilience._limits import (
    FixedWindowConfig,
    GCRAConfig,
    RateLimitConfig,
    SlidingWindowConfig,
    TokenBucketConfig,
)
from grelmicro.resilience._rate_limiter import RateLimiter
from grelmicro.resilience._result import RateLimitResult

__all__ = [
    "RateLimiter",
    "RateLimitResult",
    "TokenBucketConfig",
    "SlidingWindowConfig",
    "FixedWindowConfig",
    "GCRAConfig",
    "RateLimitConfig",
    "CircuitBreaker",
    "CircuitBreakerState",
    "CircuitBreakerMetrics",
    "CircuitBreakerEvent",
    "CircuitBreakerConfig",
    "RateLimit",
    "Breaker",
    "RateLimiterBackend",
    "RateLimiterStrategy",
    "CircuitBreakerBackend",
    "Circuit",
    "CircuitBreakerError",
    "RateLimitExceededError",
    "ResilienceError",
    "ResilienceSettingsValidationError",
]
