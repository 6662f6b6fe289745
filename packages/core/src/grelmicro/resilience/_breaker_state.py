"""What a circuit breaker tells of itself."""

from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

__all__ = ["CircuitBreakerEvent", "CircuitBreakerMetrics", "CircuitBreakerState"]


class CircuitBreakerState(StrEnum):
    """What a circuit breaker does with calls."""

    CLOSED = "CLOSED"
    """It lets them through, and counts what becomes of them."""
    OPEN = "OPEN"
    """It refuses them, until its time is over."""
    HALF_OPEN = "HALF_OPEN"
    """It lets a few through at a time, to find out whether they succeed."""
    FORCED_OPEN = "FORCED_OPEN"
    """It refuses them until somebody changes that."""
    FORCED_CLOSED = "FORCED_CLOSED"
    """It lets them through, whatever becomes of them, until somebody changes that."""


class CircuitBreakerEvent(NamedTuple):
    """A change of state, as listeners are told of it."""

    name: str
    """The breaker's name."""
    before: CircuitBreakerState
    after: CircuitBreakerState


class CircuitBreakerMetrics(NamedTuple):
    """What a circuit breaker has seen in this process, since it was made or restarted."""

    name: str
    state: CircuitBreakerState
    successes: int
    """Calls that ended well."""
    failures: int
    """Calls that ended with an exception which counts."""
    ignored: int
    """Calls that ended with an exception which does not."""
    slow: int
    """Of the successes and failures, those that took longer than `slow_call_duration`."""
    cancelled: int
    """Calls that were cancelled, or ended otherwise without telling anything."""
    rejected: int
    """Calls that were not let through."""
    errors_in_a_row: int
    """Errors since the last success, as far as they are known here; 0 where rates count."""
    failure_rate: float | None
    """The failures' share of this process's calls in the window; None without calls."""
    slow_call_rate: float | None
    """The slow calls' share of them."""
    last_error: Exception | None
    last_error_time: datetime | None
    """When that was counted, in UTC."""
