"""Every error grelmicro raises on purpose.

    GrelmicroError
    ├─ OutOfContextError(RuntimeError)             a method needs an open context
    │    └─ BackendNotOpenError(AttributeError)    a thread asks for a backend that was never opened
    ├─ WouldBlockError(RuntimeError)               the answer would mean waiting
    ├─ ComponentAlreadyRegisteredError(RuntimeError)
    ├─ ComponentNotRegisteredError(LookupError)
    ├─ NoActiveAppError(LookupError)
    ├─ DependencyNotFoundError(ImportError)        names the pip line
    ├─ SettingsValidationError(ValueError)         one line a field, no rejected value
    │    └─ CacheSettingsValidationError(CacheError) · SyncSettingsValidationError(SyncError)
    │       · ResilienceSettingsValidationError(ResilienceError)
    ├─ CacheError
    ├─ SyncError
    │    ├─ LockReentrantError · LockTimeoutError(TimeoutError)
    │    └─ SyncBackendError                       the backend failed, or says no
    │         ├─ LockAcquireError · LockLockedCheckError · LockOwnedCheckError
    │         └─ LockReleaseError
    │              └─ LockNotOwnedError            another holds it, or nobody
    │                   └─ LockLostError           it was ours, and ended while we believed it was
    └─ ResilienceError
         ├─ CircuitBreakerError                     a breaker lets nothing through
         └─ RateLimitExceededError                  there are not so many permits now

A backend's own exception is chained (`__cause__`) under the error of its area. No message shows a
password, a value or a full URL.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from grelmicro.resilience import RateLimitResult

__all__ = [
    "BackendNotOpenError",
    "CacheError",
    "CacheSettingsValidationError",
    "CircuitBreakerError",
    "ComponentAlreadyRegisteredError",
    "ComponentNotRegisteredError",
    "DependencyNotFoundError",
    "GrelmicroError",
    "LockAcquireError",
    "LockLockedCheckError",
    "LockLostError",
    "LockNotOwnedError",
    "LockOwnedCheckError",
    "LockReentrantError",
    "LockReleaseError",
    "LockTimeoutError",
    "NoActiveAppError",
    "OutOfContextError",
    "RateLimitExceededError",
    "ResilienceError",
    "ResilienceSettingsValidationError",
    "SettingsValidationError",
    "SyncBackendError",
    "SyncError",
    "SyncSettingsValidationError",
    "WouldBlockError",
]


class GrelmicroError(Exception):
    """Root of every error that grelmicro raises on purpose."""


class OutOfContextError(GrelmicroError, RuntimeError):
    """A method was called outside the context it needs: not open yet, closed, or open already."""


class BackendNotOpenError(OutOfContextError, AttributeError):
    """A thread asked for a backend that was never opened, so there is no event loop to use."""


class WouldBlockError(GrelmicroError, RuntimeError):
    """The call was asked not to wait, and waiting is what it would take."""


class ComponentAlreadyRegisteredError(GrelmicroError, RuntimeError):
    """A component of that kind and name, or that very item, is in the app already."""


class ComponentNotRegisteredError(GrelmicroError, LookupError):
    """The app has no component of that kind and name."""


class NoActiveAppError(GrelmicroError, LookupError):
    """No app is open here, or several are and none is the context's own."""


class DependencyNotFoundError(GrelmicroError, ImportError):
    """Something that is not installed was asked for; the message has the `pip install` line."""


class _ValidationError(Protocol):
    """What is needed of a pydantic `ValidationError`, without importing pydantic."""

    def errors(
        self, *, include_url: bool, include_context: bool, include_input: bool
    ) -> Sequence[Mapping[str, object]]: ...


class SettingsValidationError(GrelmicroError, ValueError):
    """Settings that cannot be used: one line a field, what was wrong with it and the way out.

    Args:
        error: The text, or a pydantic `ValidationError`, of which the rejected values are left
            out: they may be secrets.
    """

    def __init__(self, error: _ValidationError | str) -> None:
        super().__init__(error if isinstance(error, str) else _one_line_a_field(error))


def _one_line_a_field(error: _ValidationError) -> str:
    faults = error.errors(include_url=False, include_context=False, include_input=False)
    return "\n".join(f"{_path(fault['loc'])}: {_text(fault['msg'])}" for fault in faults)


def _text(message: object) -> str:
    return str(message).removeprefix("Value error, ")


def _path(loc: object) -> str:
    return ".".join(map(str, loc)) if isinstance(loc, tuple) and loc else "settings"


class CacheError(GrelmicroError):
    """A cache operation failed; the backend's own exception is its `__cause__`."""


class CacheSettingsValidationError(CacheError, SettingsValidationError):
    """Settings of a cache that cannot be used."""


class SyncError(GrelmicroError):
    """A synchronization operation failed; the backend's own exception is its `__cause__`."""


class LockReentrantError(SyncError):
    """Who holds a lock asked for it again, which would never be answered."""


class LockTimeoutError(SyncError, TimeoutError):
    """The lock did not become free in time."""


class SyncBackendError(SyncError):
    """The backend failed or refused; its own exception, if there is one, is the `__cause__`."""


class LockAcquireError(SyncBackendError):
    """The backend failed when a lock was to be taken or extended; it is not held."""


class LockLockedCheckError(SyncBackendError):
    """The backend failed when asked whether anybody holds a lock."""


class LockOwnedCheckError(SyncBackendError):
    """The backend failed when asked whether we hold a lock."""


class LockReleaseError(SyncBackendError):
    """The backend failed when a lock was to be given back; it may be held until its lease ends."""


class LockNotOwnedError(LockReleaseError):
    """A lock was to be extended or given back by somebody who does not hold it."""


class LockLostError(LockNotOwnedError):
    """The lease ended, or another holds it, while we believed that we held it.

    What was done under it since may have met what the next holder did; a store that compares
    fencing tokens refuses it.
    """


class SyncSettingsValidationError(SyncError, SettingsValidationError):
    """Settings of a lock that cannot be used."""


class ResilienceError(GrelmicroError):
    """A limiter or breaker refused or failed."""


class CircuitBreakerError(ResilienceError):
    """A circuit breaker did not let a call through.

    Args:
        name: The breaker's name.
        last_error_time: When the last failure was counted in this process, in UTC, if one was.
        last_error: That failure, if there was one: other replicas' are not known here.
        retry_after: Seconds until calls may be let through; None when nobody knows: it is forced
            open, or half-open and all its permits are taken.
    """

    def __init__(
        self,
        name: str,
        last_error_time: datetime | None = None,
        last_error: Exception | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(name, last_error_time, last_error, retry_after)
        self.name: str = name
        self.last_error_time: datetime | None = last_error_time
        self.last_error: Exception | None = last_error
        self.retry_after: float | None = retry_after

    def __str__(self) -> str:
        when = "later" if self.retry_after is None else f"in {_seconds(self.retry_after)}"
        return f"the circuit breaker {self.name!r} lets no call through: try again {when}"


class RateLimitExceededError(ResilienceError):
    """A rate limiter refused.

    Args:
        key: Who is limited; no message shows it.
        retry_after: Seconds until the same call would be allowed.
        result: The decision, if there is one to tell more.
    """

    def __init__(
        self, key: str, retry_after: float, result: "RateLimitResult | None" = None
    ) -> None:
        super().__init__(key, retry_after, result)
        self.key: str = key
        self.retry_after: float = retry_after
        self.result: RateLimitResult | None = result

    def __str__(self) -> str:
        return f"the rate limit is exceeded: try again in {_seconds(self.retry_after)}"


class ResilienceSettingsValidationError(ResilienceError, SettingsValidationError):
    """Settings of a limiter or breaker that cannot be used."""


def _seconds(number: float) -> str:
    return f"{number:.0f} s" if number >= 100 else f"{number:.3g} s"
