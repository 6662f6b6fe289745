"""When a circuit breaker trips, and how it recovers."""

import math
from dataclasses import dataclass

from grelmicro.errors import ResilienceSettingsValidationError

__all__ = ["CircuitBreakerConfig"]

MOST_CALLS = 1_000_000
MOST_PERMITS = 1000
SHORTEST = 0.001
LONGEST = 366 * 86_400.0
"""Seconds, a year: counted in microseconds, it fits a double."""

_THRESHOLD, _WINDOW, _MINIMUM = 5, 100, 10


@dataclass(frozen=True, slots=True, kw_only=True)
class CircuitBreakerConfig:
    """The settings of a circuit breaker; `CircuitBreaker` describes them.

    Raises:
        ResilienceSettingsValidationError: One is out of range, or contradicts another.
    """

    ignore_exceptions: tuple[type[BaseException], ...] = ()
    error_threshold: int | None = None
    success_threshold: int = 2
    reset_timeout: float = 30
    half_open_capacity: int = 1
    failure_rate: float | None = None
    slow_call_rate: float | None = None
    slow_call_duration: float | None = None
    window: int | None = None
    window_seconds: float | None = None
    minimum_calls: int | None = None

    def __post_init__(self) -> None:
        _check_exceptions(self.ignore_exceptions)
        _check_count(self.success_threshold, "success_threshold")
        _check_count(self.half_open_capacity, "half_open_capacity", MOST_PERMITS)
        _check_seconds(self.reset_timeout, "reset_timeout")
        if self.by_rate:
            self._check_rates()
        else:
            self._check_consecutive()

    @property
    def by_rate(self) -> bool:
        """Whether rates over a window trip it, and not errors in a row."""
        return self.failure_rate is not None or self.slow_call_rate is not None

    @property
    def errors_in_a_row(self) -> int:
        """How many errors in a row trip it."""
        return self.error_threshold or _THRESHOLD

    @property
    def calls_in_window(self) -> int:
        """The length of a window that is counted in calls."""
        return self.window or _WINDOW

    @property
    def fewest_calls(self) -> int:
        """How many calls of the window a rate needs to count."""
        most = MOST_CALLS if self.window_seconds is not None else self.calls_in_window
        return self.minimum_calls or min(_MINIMUM, most)

    def _check_consecutive(self) -> None:
        if self.error_threshold is not None:
            _check_count(self.error_threshold, "error_threshold")
        for field in ("slow_call_duration", "window", "window_seconds", "minimum_calls"):
            if getattr(self, field) is not None:
                raise ResilienceSettingsValidationError(
                    f"{field}: it is for rates: give failure_rate or slow_call_rate with it"
                )

    def _check_rates(self) -> None:
        if self.error_threshold is not None:
            raise ResilienceSettingsValidationError(
                "error_threshold: errors in a row do not count where rates do: leave it out"
            )
        for field in ("failure_rate", "slow_call_rate"):
            _check_rate(getattr(self, field), field)
        if (self.slow_call_rate is None) != (self.slow_call_duration is None):
            raise ResilienceSettingsValidationError(
                "slow_call_duration: give it and slow_call_rate together, or neither"
            )
        if self.slow_call_duration is not None:
            _check_seconds(self.slow_call_duration, "slow_call_duration")
        self._check_window()

    def _check_window(self) -> None:
        if self.window is not None and self.window_seconds is not None:
            raise ResilienceSettingsValidationError(
                "window_seconds: a window is counted in calls (window) or in seconds, not in both"
            )
        if self.window is not None:
            _check_count(self.window, "window")
        if self.window_seconds is not None:
            _check_seconds(self.window_seconds, "window_seconds")
        if self.minimum_calls is not None:
            _check_count(self.minimum_calls, "minimum_calls")
            if self.window_seconds is None and self.minimum_calls > self.calls_in_window:
                raise ResilienceSettingsValidationError(
                    f"minimum_calls: {self.minimum_calls} calls are never in a window of "
                    f"{self.calls_in_window}"
                )


def _check_exceptions(value: object) -> None:
    if not isinstance(value, tuple) or not all(
        isinstance(each, type) and issubclass(each, BaseException) for each in value
    ):
        raise ResilienceSettingsValidationError(
            "ignore_exceptions: expected an exception class, or several"
        )


def _check_count(value: object, what: str, most: int = MOST_CALLS) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise ResilienceSettingsValidationError(
            f"{what}: expected a whole number from 1 to {most}, not {value!r}"
        )


def _check_rate(value: object, what: str) -> None:
    if value is not None and not 0 < _number(value, what) <= 1:
        raise ResilienceSettingsValidationError(
            f"{what}: expected a share of the calls above 0, up to 1, not {value!r}"
        )


def _check_seconds(value: object, what: str) -> None:
    if not SHORTEST <= _number(value, what) <= LONGEST:
        raise ResilienceSettingsValidationError(
            f"{what}: {value} is not a number of seconds from {SHORTEST} to {LONGEST:.0f}"
        )


def _number(value: object, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ResilienceSettingsValidationError(f"{what}: expected a finite number, not {value!r}")
    return value
