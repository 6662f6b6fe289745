"""Resilience: rate limiters, the contracts of the backends, and their components.

Circuit breakers are not part of this release.
"""

import pkgutil

__path__ = pkgutil.extend_path(__path__, __name__)

from grelmicro.errors import (
    RateLimitExceededError,
    ResilienceError,
    ResilienceSettingsValidationError,
)
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
    "RateLimit",
    "Breaker",
    "RateLimiterBackend",
    "RateLimiterStrategy",
    "CircuitBreakerBackend",
    "RateLimitExceededError",
    "ResilienceError",
    "ResilienceSettingsValidationError",
]
