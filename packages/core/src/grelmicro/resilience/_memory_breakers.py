"""The circuit breaker backend that lives in this process."""

import asyncio
from types import TracebackType
from typing import Self

from grelmicro._threads import noted_loop
from grelmicro.resilience._breaker_config import CircuitBreakerConfig
from grelmicro.resilience._circuit import Circuit

__all__ = ["MemoryCircuitBreakerAdapter"]


class MemoryCircuitBreakerAdapter:
    """Circuit breakers in the memory of this process, for its tasks and threads.

    When it is closed, every breaker on it is as new. Async calls also work while it is not open.
    """

    _loop: asyncio.AbstractEventLoop | None = None

    def __init__(self) -> None:
        self._circuits: dict[tuple[str, CircuitBreakerConfig], Circuit] = {}
        self._entered = 0

    async def __aenter__(self) -> Self:
        """Note the running loop, for callers in threads."""
        self._entered += 1
        self._loop = noted_loop()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Reset every breaker."""
        self._entered -= 1
        if not self._entered:
            self._loop = None
            for circuit in [*self._circuits.values()]:
                circuit.restart()

    def circuit(self, *, name: str, config: CircuitBreakerConfig) -> Circuit:
        """The circuit of a name and settings."""
        key = name, config
        return self._circuits.get(key) or self._circuits.setdefault(key, Circuit(name, config))
