"""`CircuitBreaker`: no calls to what fails anyway."""

from collections.abc import Awaitable, Callable, Iterable
from contextvars import ContextVar
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeAlias, TypeVar

from grelmicro._sources import backend_source
from grelmicro._threads import task_here
from grelmicro.resilience._breaker_config import CircuitBreakerConfig
from grelmicro.resilience._breaker_state import (
    CircuitBreakerEvent,
    CircuitBreakerMetrics,
    CircuitBreakerState,
)
from grelmicro.resilience._breaker_threads import ThreadCircuitBreaker
from grelmicro.resilience._circuit import Circuit
from grelmicro.resilience._contract import CircuitBreakerBackend
from grelmicro.resilience._guarded import guarded
from grelmicro.resilience._limiter_checks import check_name
from grelmicro.resilience._memory_limits import has_gil
from grelmicro.resilience._tickets import Admission

__all__ = ["CircuitBreaker"]

P = ParamSpec("P")
R = TypeVar("R")

Backend = CircuitBreakerBackend | Any | str | None
Listener = Callable[[CircuitBreakerEvent], object]

_Call: TypeAlias = tuple["CircuitBreaker", Admission, Any]
"""A call that runs: its breaker, its admission, and the one around it."""

_calls: ContextVar[_Call | None] = ContextVar("grelmicro_breaker_calls", default=None)
"""The innermost call of this task, of those that are not only counted.

Calls that just pass all have the same admission, until the state changes: to count those that run
is enough. They are remembered one by one as long as calls with another admission run, or within a
call that is remembered.
"""
_innermost = _calls.get

_HAS_GIL = has_gil()
"""Without it, to count is not one step."""


class CircuitBreaker:
    """Lets calls through to something as long as it works, and refuses them at once when it fails.

    It opens after errors in a row or, when rates are given, when failures or slow calls are too
    many of the calls in a window. After a while it lets a few calls through at a time. When those
    succeed it closes; when one fails it opens again.

    A call that is cancelled says nothing, one that ends with an ignored exception neither. So an
    `asyncio.timeout` belongs inside of the breaker: outside it cancels. A call changes nothing when
    the state is no longer the one it began in.

    Breakers of one name share their state on one backend; give them equal settings. On Redis and
    Postgres, that is the state of all replicas; their adapters say how it is shared.

    Args:
        name: What it guards: 1 to 256 printable characters.
        ignore_exceptions: An exception class, or several, that say nothing about what is guarded.
        error_threshold: Errors in a row that open it, 5 by default; not together with rates.
        success_threshold: Successes, while half-open, that close it.
        reset_timeout: Seconds that it stays open, 0.001 to a year.
        half_open_capacity: Calls that it lets through at a time while it is half-open.
        failure_rate: The share of failures that opens it, above 0, up to 1.
        slow_call_rate: The share of slow calls that opens it, together with `slow_call_duration`.
            A slow call also opens a half-open breaker.
        slow_call_duration: Seconds above which a call is slow.
        window: The number of last calls that rates are of, 100 by default.
        window_seconds: Instead, the seconds: a tenth of them is forgotten at a time.
        minimum_calls: Calls in the window below which no rate opens it, 10 by default or as many
            as the window has.
        listeners: As for `add_listener`.
        backend: An adapter, a `Breaker` component or the name of one; by default the open app's.

    Raises:
        ResilienceSettingsValidationError: A setting is out of range, or contradicts another.
        TypeError: `backend` is none of the above.
    """

    def __init__(
        self,
        name: str,
        *,
        ignore_exceptions: type[BaseException] | Iterable[type[BaseException]] = (),
        error_threshold: int | None = None,
        success_threshold: int = 2,
        reset_timeout: float = 30,
        half_open_capacity: int = 1,
        failure_rate: float | None = None,
        slow_call_rate: float | None = None,
        slow_call_duration: float | None = None,
        window: int | None = None,
        window_seconds: float | None = None,
        minimum_calls: int | None = None,
        listeners: Iterable[Listener] = (),
        backend: Backend = None,
    ) -> None:
        self._name = check_name(name)
        self._config = CircuitBreakerConfig(
            ignore_exceptions=_classes(ignore_exceptions),
            error_threshold=error_threshold,
            success_threshold=success_threshold,
            reset_timeout=reset_timeout,
            half_open_capacity=half_open_capacity,
            failure_rate=failure_rate,
            slow_call_rate=slow_call_rate,
            slow_call_duration=slow_call_duration,
            window=window,
            window_seconds=window_seconds,
            minimum_calls=minimum_calls,
        )
        self._listeners = [*listeners]
        self._find: Callable[[], CircuitBreakerBackend] = backend_source("circuitbreaker", backend)
        self._binding: tuple[Any, Any, Any, Any, Any] = (None, None, None, (), None)
        self._running = 0
        self._counting: Any = None
        self._counted: Any = None

    @property
    def name(self) -> str:
        """What it guards."""
        return self._name

    @property
    def config(self) -> CircuitBreakerConfig:
        """Its settings."""
        return self._config

    @property
    def backend(self) -> CircuitBreakerBackend:
        """The backend that serves now."""
        return self._find()

    @property
    def from_thread(self) -> ThreadCircuitBreaker:
        """The same breaker for worker threads."""
        return ThreadCircuitBreaker(self)

    @property
    def state(self) -> CircuitBreakerState:
        """What it does with calls; after its time, an open one is half-open from the next call."""
        return self._circuit.state

    @property
    def last_error(self) -> Exception | None:
        """The failure that was counted last in this process."""
        return self._circuit.last_error

    def metrics(self) -> CircuitBreakerMetrics:
        """What it has seen in this process."""
        return self._circuit.metrics()

    def add_listener(self, listener: Listener) -> None:
        """Call a plain function with a `CircuitBreakerEvent` after every change of state.

        In the task or thread that changes it; for what another replica changed, in a background
        task. An exception of it is logged. A breaker is heard from its first use on.
        """
        self._listeners.append(listener)

    def remove_listener(self, listener: Listener) -> None:
        """Call it no more.

        Raises:
            ValueError: It is not one of them.
        """
        self._listeners.remove(listener)

    def changed(self, event: CircuitBreakerEvent) -> None:
        """Tell the listeners; for backends."""
        for listener in [*self._listeners]:
            listener(event)

    def __call__(self, function: Callable[P, R], /) -> Callable[P, R]:
        """Guard the calls of a sync or async function: `@breaker`.

        A synchronous function is for worker threads, and needs the backend to be open.

        Raises:
            TypeError: What is decorated is no function, or a generator.
        """
        return guarded(self, function)

    async def __aenter__(self) -> Self:
        """Let a call through.

        Raises:
            CircuitBreakerError: It is not let through.
            NoActiveAppError: No backend was given and no app is open.
        """
        backend = self._find()
        bound, cls, own, patched, circuit = self._binding
        if backend is not bound or "circuit" in patched or cls.circuit is not own:
            circuit = self.circuit_on(backend)
        admission = circuit.passing
        if admission is None:
            await self._ask(circuit)
        elif _innermost() is None and (admission is self._counted or self._counts(circuit)):
            self._running += 1
        else:
            _calls.set((self, admission, _innermost()))
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Count what became of it."""
        call = _innermost()
        if call is not None:
            self._leave(call, exc)
        elif self._running:
            self._running -= 1
            admission, circuit = self._counted, self._counting
            if exc is None and circuit.quiet is admission:
                circuit.succeeded += 1
            else:
                circuit.leave(admission, exc)

    async def _ask(self, circuit: Circuit) -> None:
        admission = circuit.enter(task_here())
        if not isinstance(admission, Admission):
            admission = await admission
        _calls.set((self, admission, _innermost()))

    def _counts(self, circuit: Circuit) -> bool:
        """Count the calls that just pass a circuit now, if no others are counted."""
        if self._running or not _HAS_GIL:
            return False
        self._counting, self._counted = circuit, circuit.passing
        return self._counted is not None

    def _leave(self, call: _Call, error: BaseException | None) -> None:
        """Leave the innermost call of this breaker.

        A generator that is closed in another task than it ran in finds none: that says nothing.
        """
        between: list[_Call] = []
        inner: _Call | None = call
        while inner is not None and inner[0] is not self:
            between.append(inner)
            inner = inner[2]
        if inner is not None:
            _, admission, around = inner
            for each in reversed(between):
                around = (*each[:2], around)
            _calls.set(around)
            admission.circuit.leave(admission, error)
        elif self._running:
            self._running -= 1
            self._counting.leave(self._counted, error)

    def circuit_on(self, backend: CircuitBreakerBackend) -> Circuit:
        """The circuit on a backend, remembered unless the backend's `circuit` is patched."""
        circuit = backend.circuit(name=self._name, config=self._config)
        circuit.listen(self)
        cls = type(backend)
        own, patched = getattr(cls, "circuit", None), getattr(backend, "__dict__", ())
        if own is not None and "circuit" not in patched:
            self._binding = (backend, cls, own, patched, circuit)
        return circuit

    @property
    def _circuit(self) -> Circuit:
        return self.circuit_on(self._find())

    def restart(self) -> Awaitable[None]:
        """Close it, and forget what was counted in this process.

        Like every change by hand, it takes effect here at once, is pushed to the other replicas in
        the background, and leaves forced states, too. What it returns need not be awaited.

        Returns:
            Something to await until it is pushed; then a ResilienceError when that failed, which is
            tried again in the background.
        """
        return self._circuit.restart()

    def transition_to_closed(self) -> Awaitable[None]:
        """Close it; as `restart`, but what was counted stays in the metrics."""
        return self._circuit.change(CircuitBreakerState.CLOSED)

    def transition_to_open(self) -> Awaitable[None]:
        """Open it for `reset_timeout` seconds from now; see `restart`."""
        return self._circuit.change(CircuitBreakerState.OPEN)

    def transition_to_half_open(self) -> Awaitable[None]:
        """Let a few calls through at a time; see `restart`."""
        return self._circuit.change(CircuitBreakerState.HALF_OPEN)

    def transition_to_forced_open(self) -> Awaitable[None]:
        """Let nothing through until another change by hand; see `restart`."""
        return self._circuit.change(CircuitBreakerState.FORCED_OPEN)

    def transition_to_forced_closed(self) -> Awaitable[None]:
        """Let everything through until another change by hand; see `restart`."""
        return self._circuit.change(CircuitBreakerState.FORCED_CLOSED)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._name!r})"


def _classes(
    given: type[BaseException] | Iterable[type[BaseException]],
) -> tuple[type[BaseException], ...]:
    return tuple(given) if isinstance(given, Iterable) else (given,)
