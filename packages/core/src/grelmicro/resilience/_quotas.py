"""Configurations in whole numbers, which every backend decides with: nothing drifts.

A bucket does not count permits but what is owed: `limit` permits of `unit` units each at most, of
which `rate` units are forgiven in every microsecond. Rate and unit are whole numbers, so that rates
such as 7 permits in 3 seconds are exact. A sliding window is a bucket.

All numbers stay below 2**53, so that a double holds them: that is what Lua has.
"""

import math
from fractions import Fraction
from typing import NamedTuple, TypeAlias

from grelmicro.errors import ResilienceSettingsValidationError
from grelmicro.resilience._limits import (
    FixedWindowConfig,
    RateLimitConfig,
    SlidingWindowConfig,
    TokenBucketConfig,
)
from grelmicro.resilience._result import RateLimitResult, new_result

__all__ = ["Bucket", "Quota", "Window", "quota_of"]

_ROOM = 2**52
"""Units of a full bucket at most; with another call's cost it is below 2**53."""

_SECOND = 1_000_000
"""Microseconds."""


class Bucket(NamedTuple):
    """A token bucket, or a sliding window."""

    limit: int
    rate: int
    """Units that are forgiven in a microsecond."""
    unit: int
    """Units of a permit."""

    @property
    def full(self) -> int:
        """Units that may be owed at most."""
        return self.limit * self.unit

    @property
    def tag(self) -> str:
        """What tells buckets of different sizes apart, as a part of a key."""
        return f"{self.limit}:{self.rate}:{self.unit}"

    def at(self, owed: int, then: int, now: int) -> tuple[int, int]:
        """What is owed now, of what was owed then; and 0, as there is no window."""
        return max(0, min(self.full, owed - (now - then) * self.rate)), 0

    def look(self, owed: int, left: int, cost: int) -> RateLimitResult:
        """Say what would be decided; the arguments are those of `result`."""
        return self.result(owed + cost * self.unit <= self.full, owed, left, cost)

    def result(self, allowed: int, owed: int, _: int, cost: int) -> RateLimitResult:
        """Say what was decided.

        Args:
            allowed: Whether, as 0 or 1.
            owed: Units, after the decision.
            cost: Permits that were asked for.
        """
        limit, rate, unit = self
        full = limit * unit
        left, reset_after = (full - owed) // unit, -(-owed // rate) / _SECOND
        if allowed:
            return new_result(RateLimitResult, (True, limit, left, 0.0, reset_after))
        missing = owed + cost * unit - full
        return RateLimitResult(False, limit, left, -(-missing // rate) / _SECOND, reset_after)


class Window(NamedTuple):
    """A fixed window."""

    limit: int
    rate: int
    """0, which tells it from a bucket."""
    unit: int
    """Microseconds of the window."""

    @property
    def tag(self) -> str:
        """What tells windows of different sizes apart, as a part of a key."""
        return f"{self.limit}:0:{self.unit}"

    def at(self, taken: int, end: int, now: int) -> tuple[int, int]:
        """What is taken now of a window that ends or ended then, and what is left of it."""
        return (taken, min(end - now, self.unit)) if end > now else (0, 0)

    def look(self, taken: int, left: int, cost: int) -> RateLimitResult:
        """Say what would be decided; the arguments are those of `result`."""
        return self.result(taken + cost <= self.limit, taken, left, cost)

    def result(self, allowed: int, taken: int, left: int, cost: int) -> RateLimitResult:
        """Say what was decided.

        Args:
            allowed: Whether, as 0 or 1.
            taken: Permits, after the decision.
            left: Microseconds of the window that are left.
            cost: Permits that were asked for.
        """
        return RateLimitResult(
            bool(allowed),
            self.limit,
            self.limit - taken,
            0.0 if allowed else left / _SECOND,
            left / _SECOND if taken else 0.0,
        )


Quota: TypeAlias = Bucket | Window


def quota_of(config: RateLimitConfig) -> Quota:
    """The whole numbers of a configuration.

    Raises:
        ResilienceSettingsValidationError: It is none of the three.
    """
    match config:
        case TokenBucketConfig():
            return _bucket(config.capacity, _exact(config.refill_rate) / _SECOND)
        case SlidingWindowConfig():
            return _bucket(config.limit, config.limit / _exact(config.window) / _SECOND)
        case FixedWindowConfig():
            return Window(config.limit, 0, round(config.window * _SECOND))
    raise ResilienceSettingsValidationError(
        "config: expected a TokenBucketConfig, SlidingWindowConfig or FixedWindowConfig, "
        f"not {type(config).__name__}"
    )


def _exact(number: float) -> Fraction:
    """What was written: of 0.1, one tenth."""
    return Fraction(repr(number)) if isinstance(number, float) else Fraction(number)


def _bucket(limit: int, rate: Fraction) -> Bucket:
    """The nearest bucket there is room for; it is off by less than one part in a million."""
    nearest = rate.limit_denominator(_ROOM // max(limit, math.ceil(rate)))
    return Bucket(limit, nearest.numerator, nearest.denominator)
