"""What a cache's settings have to be."""

import math

from grelmicro.cache._names import check_key
from grelmicro.errors import CacheSettingsValidationError

__all__ = ["SHORTEST_TTL", "check_maxsize", "check_name", "check_ttl"]

SHORTEST_TTL = 0.001
"""Seconds: what the coarsest server clock in use can tell apart."""


def check_ttl(ttl: object) -> float:
    """Return a time to live in seconds.

    Raises:
        CacheSettingsValidationError: It is no number, not finite, or below 1 ms.
    """
    if isinstance(ttl, bool) or not isinstance(ttl, int | float):
        raise CacheSettingsValidationError(f"ttl: expected seconds, not {type(ttl).__name__}")
    if not math.isfinite(ttl) or ttl < SHORTEST_TTL:
        raise CacheSettingsValidationError(
            f"ttl: {ttl} is not a positive, finite number of seconds of at least {SHORTEST_TTL}"
        )
    return float(ttl)


def check_maxsize(maxsize: object) -> int:
    """Return a number of entries; 0 stands for no limit.

    Raises:
        CacheSettingsValidationError: It is no whole number, or negative.
    """
    if isinstance(maxsize, bool) or not isinstance(maxsize, int) or maxsize < 0:
        raise CacheSettingsValidationError("maxsize: expected 0 (no limit) or a positive number")
    return maxsize


def check_name(name: str | None) -> str | None:
    """Return the name of a cache; None for one without.

    Raises:
        CacheSettingsValidationError: It is empty, or could not be a part of a key.
    """
    if name == "":
        raise CacheSettingsValidationError("name: expected a non-empty string")
    try:
        return name if name is None else check_key(name, "name")
    except (TypeError, ValueError) as error:
        raise CacheSettingsValidationError(str(error)) from None
