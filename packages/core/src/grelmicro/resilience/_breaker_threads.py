"""Circuit breakers for worker threads."""

from threading import get_ident
from types import TracebackType
from typing import TYPE_CHECKING, Self

from grelmicro._threads import loop_of, on_a_loop, run_on, thread_here
from grelmicro.resilience._tickets import Admission

if TYPE_CHECKING:
    from grelmicro.resilience._circuit_breaker import CircuitBreaker

__all__ = ["ThreadCircuitBreaker"]


class ThreadCircuitBreaker:
    """A `CircuitBreaker` for callers in worker threads: `with breaker.from_thread:`.

    A call goes through without the event loop. Only a half-open breaker of a fleet asks its backend
    there. Threads do not wait for each other.

    Raises:
        BackendNotOpenError: On entering: the backend was never opened, or is closed.
        RuntimeError: On entering: this is the thread of an event loop, which might stop.
        CircuitBreakerError: On entering: the call is not let through.
    """

    def __init__(self, breaker: "CircuitBreaker") -> None:
        self._breaker = breaker
        self._calls: list[tuple[int, Admission]] = []

    def __enter__(self) -> Self:
        """Let a call through."""
        backend = self._breaker.backend
        loop = loop_of(backend)
        if on_a_loop():
            raise RuntimeError(
                "a synchronous call may block the event loop of this thread: "
                "use `async with` here, or call from a worker thread (asyncio.to_thread)"
            )
        admission = self._breaker.circuit_on(backend).enter(thread_here())
        if not isinstance(admission, Admission):
            admission = run_on(loop, admission)
        self._calls.append((get_ident(), admission))
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Count what became of it."""
        call = self._latest()
        self._calls.remove(call)
        call[1].circuit.leave(call[1], exc)

    def _latest(self) -> tuple[int, Admission]:
        """This thread's latest call; for a block that changed threads, the latest of all.

        Threads that share one such object enter and leave at the same time.
        """
        here, calls = get_ident(), [*self._calls]
        return next((call for call in reversed(calls) if call[0] == here), calls[-1])
