"""What a circuit breaker's backend promises, and what it shares with a limiter's."""

import asyncio
from types import TracebackType
from typing import Any, Protocol, Self

__all__ = ["CircuitBreakerBackend"]


class _ResilienceBackend(Protocol):
    _loop: asyncio.AbstractEventLoop | None

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> bool | None: ...


class CircuitBreakerBackend(_ResilienceBackend, Protocol):
    """Knows the breakers that live on it; in one process, or in a fleet that shares their state."""

    def register(self, breaker: Any) -> Any:
        """Make a breaker known to the backend; no I/O."""
        ...
