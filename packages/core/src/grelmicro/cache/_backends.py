"""Which backend a cache speaks to, and what that backend offers."""

import inspect
import math
from collections.abc import Callable
from types import TracebackType
from typing import Any

from grelmicro._component import Component
from grelmicro._kinds import KINDS
from grelmicro._runtime import ambient_backend
from grelmicro.errors import CacheError, CacheSettingsValidationError, GrelmicroError

__all__ = ["SHORTEST_TTL", "backend_source", "cache_errors", "check_ttl", "offers", "offers_prefix"]

SHORTEST_TTL = 0.001
"""Seconds: what the coarsest server clock in use can tell apart."""


def backend_source(backend: Any) -> Callable[[], Any]:
    """Make the function that finds the backend, anew for every call.

    Args:
        backend: An adapter; a component; the name of a component of the open app; or None for the
            default one.

    Raises:
        TypeError: It is none of these.
    """
    if backend is None or isinstance(backend, str):
        return ambient_backend("cache", backend or "default")
    if isinstance(backend, Component) and backend.kind == "cache":
        return lambda: backend.serving
    if isinstance(backend, type) or not KINDS["cache"].fits(backend):
        raise TypeError(
            f"backend: expected a CacheBackend, a Cache, or a component's name, "
            f"not {type(backend).__name__}"
        )
    return lambda: backend


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


def offers(backend: Any, method: str) -> bool:
    """Whether the backend has an optional method."""
    return callable(getattr(backend, method, None))


def offers_prefix(backend: Any) -> bool:
    """Whether the backend's `clear` takes a prefix."""
    parameters = inspect.signature(backend.clear).parameters.values()
    return any(p.name == "prefix" or p.kind is p.VAR_KEYWORD for p in parameters)


class _CacheErrors:
    """Turns whatever a backend raises into a CacheError that it causes."""

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if isinstance(exc, Exception) and not isinstance(exc, GrelmicroError):
            raise CacheError(f"the cache backend failed: {type(exc).__name__}: {exc}") from exc


cache_errors = _CacheErrors()
