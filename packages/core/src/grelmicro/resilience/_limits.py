"""How much a rate limiter lets through: the three configurations."""

import math
from dataclasses import dataclass
from typing import TypeAlias

from grelmicro.errors import ResilienceSettingsValidationError

__all__ = [
    "FixedWindowConfig",
    "GCRAConfig",
    "RateLimitConfig",
    "SlidingWindowConfig",
    "TokenBucketConfig",
]

MOST_PERMITS = 10**9
MOST_RATE = 1e12
SHORTEST = 0.001
LONGEST = 10 * 366 * 86_400.0
"""Seconds, ten years: with the numbers above, everything fits the whole numbers of a double."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenBucketConfig:
    """A bucket of permits that fills at a steady rate.

    Args:
        capacity: Permits of a full bucket, which may be taken at once: 1 to a billion.
        refill_rate: Permits a second that come back, up to 1e12; an empty bucket has to be full
            again within ten years.
        fail_open: Whether calls are allowed while the backend cannot be asked.

    Raises:
        ResilienceSettingsValidationError: A setting is out of range.
    """

    capacity: int
    refill_rate: float
    fail_open: bool = False

    def __post_init__(self) -> None:
        _check_permits(self.capacity, "capacity")
        rate = _number(self.refill_rate, "refill_rate")
        if not 0 < rate <= MOST_RATE or self.capacity / rate > LONGEST:
            raise ResilienceSettingsValidationError(
                f"refill_rate: {rate} is not a number of permits a second above 0, up to "
                f"{MOST_RATE:g}, that fills the bucket within ten years"
            )
        _check_flag(self.fail_open)

    @property
    def limit(self) -> int:
        """Permits of the full quota: the capacity."""
        return self.capacity


@dataclass(frozen=True, slots=True, kw_only=True)
class SlidingWindowConfig:
    """So many permits in a window that slides: the generic cell rate algorithm (ITU-T I.371).

    A whole window's permits may be taken at once; each comes back after its share of the window,
    so that no more than `limit` of them are out at any time.

    Args:
        limit: Permits of a window: 1 to a billion.
        window: Its seconds: 0.001 to ten years.
        fail_open: Whether calls are allowed while the backend cannot be asked.

    Raises:
        ResilienceSettingsValidationError: A setting is out of range.
    """

    limit: int
    window: float
    fail_open: bool = False

    def __post_init__(self) -> None:
        _check_permits(self.limit, "limit")
        _check_window(self.window)
        _check_flag(self.fail_open)


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedWindowConfig:
    """So many permits in a window, which begins with the first of them.

    They come back together at its end: around that moment, twice as many may be taken.

    Args:
        limit: Permits of a window: 1 to a billion.
        window: Its seconds: 0.001 to ten years.
        fail_open: Whether calls are allowed while the backend cannot be asked.

    Raises:
        ResilienceSettingsValidationError: A setting is out of range.
    """

    limit: int
    window: float
    fail_open: bool = False

    def __post_init__(self) -> None:
        _check_permits(self.limit, "limit")
        _check_window(self.window)
        _check_flag(self.fail_open)


GCRAConfig = SlidingWindowConfig
"""The older name of `SlidingWindowConfig`."""

RateLimitConfig: TypeAlias = TokenBucketConfig | SlidingWindowConfig | FixedWindowConfig
"""Any of the three."""


def _check_permits(value: object, what: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MOST_PERMITS:
        raise ResilienceSettingsValidationError(
            f"{what}: expected a whole number of permits from 1 to {MOST_PERMITS}, not {value!r}"
        )


def _check_window(value: object) -> None:
    if not SHORTEST <= _number(value, "window") <= LONGEST:
        raise ResilienceSettingsValidationError(
            f"window: {value} is not a number of seconds from {SHORTEST} to {LONGEST:.0f}"
        )


def _check_flag(value: object) -> None:
    if not isinstance(value, bool):
        raise ResilienceSettingsValidationError(f"fail_open: expected True or False, not {value!r}")


def _number(value: object, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ResilienceSettingsValidationError(f"{what}: expected a finite number, not {value!r}")
    return value
