"""What the keys, costs and names of rate limiters have to be."""

import re

from grelmicro.errors import ResilienceSettingsValidationError

__all__ = ["MAX_KEY", "check_cost", "check_key", "check_name", "check_timeout"]

MAX_NAME = 256
MAX_KEY = 1 << 16
"""Characters of the longest: what callers send decides about keys."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def check_name(name: object) -> str:
    """Return the name of a limiter.

    Raises:
        ResilienceSettingsValidationError: It is no string, empty, too long, or not printable.
    """
    text = _text(name, "name", MAX_NAME)
    if _CONTROL.search(text):
        raise ResilienceSettingsValidationError(
            "name: control characters (NUL, ...) are not allowed"
        )
    return text


def check_key(key: object) -> str:
    """Return a key.

    Raises:
        ResilienceSettingsValidationError: It is no string, empty, too long, or no Unicode.
    """
    return _text(key, "key", MAX_KEY)


def check_cost(cost: object, limit: int) -> None:
    """See that a cost can be met.

    Raises:
        ResilienceSettingsValidationError: It is no whole number from 1 to the limit.
    """
    if isinstance(cost, bool) or not isinstance(cost, int) or not 1 <= cost <= limit:
        raise ResilienceSettingsValidationError(
            f"cost: expected a whole number of permits from 1 to the limit of {limit}, not {cost!r}"
        )


def check_timeout(timeout: object) -> float | None:
    """Return the seconds to wait at most; None for as long as it takes.

    Raises:
        ResilienceSettingsValidationError: It is no number, or negative.
    """
    if timeout is None:
        return None
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not timeout >= 0:
        raise ResilienceSettingsValidationError(
            f"timeout: expected seconds from 0 on, or None, not {timeout!r}"
        )
    return float(timeout)


def _text(value: object, what: str, most: int) -> str:
    if not isinstance(value, str) or not value:
        raise ResilienceSettingsValidationError(f"{what}: expected a non-empty string")
    if len(value) > most:
        raise ResilienceSettingsValidationError(
            f"{what}: {len(value)} characters are too many, {most} is the most"
        )
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ResilienceSettingsValidationError(
            f"{what}: a lone surrogate cannot be encoded as UTF-8"
        ) from None
    return value
