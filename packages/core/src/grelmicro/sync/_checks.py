"""What the settings of locks have to be."""

import math
import re

from grelmicro.errors import SyncSettingsValidationError

__all__ = ["MAX_NAME", "check_name", "check_seconds", "check_timeout"]

MAX_NAME = 1024
"""Characters of the longest name."""

SHORTEST = 0.001
"""Seconds: what the coarsest server clock in use can tell apart."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def check_name(name: object, what: str = "name") -> str:
    """Return the name of a lock, or of a worker.

    Raises:
        SyncSettingsValidationError: It is no string, empty, too long, or not printable; calls it
            `what`.
    """
    if not isinstance(name, str) or not name:
        raise SyncSettingsValidationError(f"{what}: expected a non-empty string")
    if len(name) > MAX_NAME:
        raise SyncSettingsValidationError(
            f"{what}: {len(name)} characters are too many, {MAX_NAME} is the most"
        )
    if _CONTROL.search(name):
        raise SyncSettingsValidationError(f"{what}: control characters (NUL, ...) are not allowed")
    try:
        name.encode()
    except UnicodeEncodeError:
        raise SyncSettingsValidationError(
            f"{what}: a lone surrogate cannot be encoded as UTF-8"
        ) from None
    return name


def check_seconds(value: object, what: str, least: float = SHORTEST) -> float:
    """Return a number of seconds, from `least` up.

    Raises:
        SyncSettingsValidationError: It is no number, not finite, or too small; calls it `what`.
    """
    if type(value) is float or type(value) is int:
        if least <= value < math.inf:
            return float(value)
    elif isinstance(value, bool) or not isinstance(value, int | float):
        raise SyncSettingsValidationError(f"{what}: expected seconds, not {type(value).__name__}")
    if not math.isfinite(value) or value < least:
        raise SyncSettingsValidationError(
            f"{what}: {value} is not a finite number of seconds of at least {least}"
        )
    return float(value)


def check_timeout(timeout: object) -> float | None:
    """Return the seconds to wait at most; None for as long as it takes.

    Raises:
        SyncSettingsValidationError: It is no number, or negative.
    """
    return None if timeout is None else check_seconds(timeout, "timeout", 0.0)
