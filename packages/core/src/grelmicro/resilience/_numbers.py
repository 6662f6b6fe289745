"""The settings of a circuit breaker, as a fleet's backend takes them."""

import math

from grelmicro.errors import ResilienceSettingsValidationError
from grelmicro.resilience._breaker_config import CircuitBreakerConfig
from grelmicro.resilience._windows import SLOTS

__all__ = ["check_lease", "numbers_of"]

_NEVER = 2
"""A rate that no calls have."""


def numbers_of(config: CircuitBreakerConfig) -> tuple[int | float | str, ...]:
    """The settings as numbers; times in microseconds.

    They are: the reset timeout, the capacity, the success threshold, the errors in a row that open
    it, the failure and slow-call rates that do, the fewest calls of a rate, the length of a part of
    the window (0 when there is none; 1 when it is counted in calls), the calls of such a part (0
    when it is counted in time), and a text that is the same for windows of one shape.
    """
    width = size = 0
    if config.by_rate and config.window_seconds is None:
        width, size = 1, math.ceil(config.calls_in_window / SLOTS)
    elif config.window_seconds is not None:
        width = max(1, round(config.window_seconds * 1e6 / SLOTS))
    return (
        *(round(config.reset_timeout * 1e6), config.half_open_capacity, config.success_threshold),
        *(config.errors_in_a_row, _rate(config.failure_rate), _rate(config.slow_call_rate)),
        *(config.fewest_calls, width, size, f"{width}:{size}"),
    )


def check_lease(seconds: object) -> float:
    """Return the lease of permits.

    Raises:
        ResilienceSettingsValidationError: It is no number of seconds from 0.1 to a day.
    """
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        seconds = math.nan
    if not 0.1 <= seconds <= 86_400:
        raise ResilienceSettingsValidationError(
            "permit_lease: expected seconds from 0.1 to a day (86400)"
        )
    return float(seconds)


def _rate(rate: float | None) -> float:
    return _NEVER if rate is None else float(rate)
