"""Resilience: the contracts of the backends, and their components.

The primitives that stand on them (rate limiters, circuit breakers) are not part of this release.
"""

import pkgutil

__path__ = pkgutil.extend_path(__path__, __name__)

from grelmicro.errors import ResilienceError, ResilienceSettingsValidationError
from grelmicro.resilience._components import Breaker, RateLimit
from grelmicro.resilience._contract import CircuitBreakerBackend, RateLimiterBackend

__all__ = [
    "Breaker",
    "CircuitBreakerBackend",
    "RateLimit",
    "RateLimiterBackend",
    "ResilienceError",
    "ResilienceSettingsValidationError",
]
