"""What a rate limiter decided."""

from collections.abc import Callable
from typing import NamedTuple

__all__ = ["RateLimitResult", "new_result"]


class RateLimitResult(NamedTuple):
    """One decision of a rate limiter; true when the call is allowed."""

    allowed: bool
    """Whether the permits were there: taken by `acquire`, only looked at by `peek`."""
    limit: int
    """Permits of the full quota."""
    remaining: int
    """Whole permits that are left now, never negative."""
    retry_after: float
    """Seconds until the same call would be allowed, if nobody else takes permits; 0 when it is."""
    reset_after: float
    """Seconds until the quota is full again, if nobody takes permits."""

    def __bool__(self) -> bool:
        return self.allowed


new_result: Callable[..., RateLimitResult] = tuple.__new__
"""Makes one, of the class and a tuple, in half the time that its own constructor takes."""
