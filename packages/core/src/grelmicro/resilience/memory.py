"""The resilience backends that live in this process."""

from grelmicro.resilience._memory_breakers import MemoryCircuitBreakerAdapter
from grelmicro.resilience._memory_limits import MemoryRateLimiterAdapter

__all__ = ["MemoryCircuitBreakerAdapter", "MemoryRateLimiterAdapter"]
