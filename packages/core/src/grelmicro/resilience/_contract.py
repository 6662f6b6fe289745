"""What a circuit breaker's backend promises, and what it shares with a limiter's."""

import asyncio
from types import TracebackType
from typing import Protocol, Self

from grelmicro.resilience._breaker_config import CircuitBreakerConfig
from grelmicro.resilience._circuit import Circuit

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
    """Keeps the circuits of breakers: for one process, or linked to those of a fleet."""

    def circuit(self, *, name: str, config: CircuitBreakerConfig) -> Circuit:
        """The circuit of a name and settings; no I/O, from any thread.

        The same one each time, as long as the backend exists.
        """
        ...
