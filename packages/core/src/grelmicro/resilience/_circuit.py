"""The state of a circuit breaker in one process: what is let through, and what trips it."""

import logging
import threading
from collections.abc import Awaitable, Coroutine, Generator
from datetime import UTC, datetime
from time import monotonic
from typing import Any, TypeGuard
from weakref import WeakSet

from grelmicro.errors import CircuitBreakerError
from grelmicro.resilience._breaker_config import CircuitBreakerConfig
from grelmicro.resilience._breaker_state import (
    CircuitBreakerEvent,
    CircuitBreakerMetrics,
    CircuitBreakerState,
)
from grelmicro.resilience._tickets import RIDES, Admission, Period, Probe, Says, Ticket
from grelmicro.resilience._windows import Window, window_of

__all__ = ["CLOSED", "HALF_OPEN", "OPEN", "Circuit"]

CLOSED = CircuitBreakerState.CLOSED
OPEN = CircuitBreakerState.OPEN
HALF_OPEN = CircuitBreakerState.HALF_OPEN
FORCED_OPEN = CircuitBreakerState.FORCED_OPEN
FORCED_CLOSED = CircuitBreakerState.FORCED_CLOSED

_log = logging.getLogger("grelmicro.resilience")


class _Done:
    """What there is to wait for where nothing is, any number of times."""

    def __await__(self) -> Generator[None, None, None]:
        yield from ()


_DONE = _Done()


class Circuit:
    """The state that breakers of one name and equal settings share on one backend.

    For tasks and threads: what it does is done under a lock, which nobody holds while a call
    runs or anything is waited for. It goes by the monotonic clock.

    Args:
        name: The breakers' name.
        config: Their settings.
    """

    def __init__(self, name: str, config: CircuitBreakerConfig) -> None:
        self.name = name
        self.config = config
        self.succeeded: int = 0
        """Successes; for those that told nothing else, the breaker counts."""
        self.passing: Admission | None = None
        """What calls get as long as they just pass."""
        self.quiet: Admission | None = None
        """The same, as long as a success changes nothing and takes no time to note."""
        self._listeners: WeakSet[Any] = WeakSet()
        self._lock = threading.RLock()
        self._news: list[CircuitBreakerEvent] = []
        self._probes: WeakSet[Probe] = WeakSet()
        self._times_calls = config.slow_call_duration is not None
        self._slow_from = config.slow_call_duration or 0.0
        self._state = CLOSED
        self._last_error: Exception | None = None
        self._last_error_time: datetime | None = None
        self._window: Window | None = None
        self._errors = self._successes = 0
        self._forget()
        self._begin(CLOSED)

    @property
    def state(self) -> CircuitBreakerState:
        """The state now; an open circuit becomes half-open with the first call after its time."""
        return self._state

    @property
    def last_error(self) -> Exception | None:
        """The failure that was counted last in this process."""
        return self._last_error

    @property
    def retry_after(self) -> float | None:
        """Seconds until calls may be let through; None when nobody knows."""
        if self._state is OPEN:
            return max(0.0, self._open_until - monotonic())
        return None

    def refusal(self) -> CircuitBreakerError:
        """What is raised for a call that is not let through."""
        return CircuitBreakerError(
            self.name, self._last_error_time, self._last_error, self.retry_after
        )

    def listen(self, listener: Any) -> None:
        """Call its `changed(event)` after every change of state, as long as it lives."""
        with self._lock:
            self._listeners.add(listener)

    # Calls.

    def enter(self, owner: object) -> Admission | Coroutine[Any, Any, Admission]:
        """Let a call through, or ask somebody whether to.

        Args:
            owner: The task or thread whose call it is.

        Raises:
            CircuitBreakerError: It is not let through.
        """
        with self._lock:
            ticket = self._ticket(owner)
            self._rejected += ticket is None
        if self._news:
            self._tell()
        return self._admission(ticket)

    def leave(self, admission: Admission, error: BaseException | None) -> None:
        """Count what became of a call, if it began in the state that the circuit is in."""
        _, ticket, started = admission
        with self._lock:
            if error is None or self._is_failure(error):
                self._told(ticket, error, started)
            else:
                self._untold(ticket, error)
        if self._news:
            self._tell()

    def _admission(self, ticket: Ticket | None) -> Admission:
        if ticket is None:
            raise self.refusal()
        return Admission(self, ticket, monotonic() if self._times_calls else 0.0)

    def _ticket(self, owner: object) -> Ticket | None:
        if self._state in (CLOSED, FORCED_CLOSED):
            return self._period
        if self._is_over():
            self._begin(HALF_OPEN)
        if self._state is not HALF_OPEN:
            return None
        if self._rides(owner):
            return RIDES
        return self._probe(owner) if self._has_room() else None

    def _rides(self, owner: object) -> bool:
        """Whether the call is within a probe of its own."""
        return any(probe.owner() is owner for probe in self._probes)

    def _is_over(self) -> bool:
        return self._state is OPEN and monotonic() >= self._open_until

    def _has_room(self) -> bool:
        return len(self._probes) < self.config.half_open_capacity

    def _probe(self, owner: object, token: str = "") -> Probe:
        probe = Probe(self._period, owner, token)
        self._probes.add(probe)
        return probe

    def _is_failure(self, error: BaseException) -> TypeGuard[Exception]:
        """Whether it counts: a cancellation says nothing, nor does this circuit's own refusal."""
        return (
            isinstance(error, Exception)
            and not isinstance(error, self.config.ignore_exceptions)
            and not self._is_own(error)
        )

    def _is_own(self, error: BaseException) -> bool:
        return isinstance(error, CircuitBreakerError) and error.name == self.name

    def _told(self, ticket: Ticket, error: Exception | None, started: float) -> None:
        """Note a success or a failure."""
        slow = int(self._times_calls and started > 0 and monotonic() - started > self._slow_from)
        self._slow += slow
        if error is None:
            self.succeeded += 1
        else:
            self._failed += 1
        if isinstance(ticket, Probe):
            self._probe_ended(ticket, error, slow)
        elif ticket is self._period and self._state is CLOSED:
            self._call_ended(error, slow)

    def _untold(self, ticket: Ticket, error: BaseException) -> None:
        """Note a call that tells nothing."""
        if isinstance(error, Exception) and not self._is_own(error):
            self._ignored += 1
        else:
            self._cancelled += 1
        if isinstance(ticket, Probe):
            self._give_back(ticket)

    def _call_ended(self, error: Exception | None, slow: int) -> None:
        """Count a call of this period, while it is closed."""
        if error is not None:
            self._note(error)
        window = self._window
        if window is not None:
            window.add(error is not None, slow, monotonic())
            trips = window.trips
        else:
            self._errors = self._errors + 1 if error is not None else 0
            trips = self._errors >= self.config.errors_in_a_row
            self._look_for_quiet()
        if trips:
            self._begin(OPEN)

    def _probe_ended(self, probe: Probe, error: Exception | None, slow: int) -> None:
        """Count a call that was let through half-open, if it still is, and was not in between."""
        is_bad = error is not None or slow
        if probe.period is not self._period:
            self._give_back(probe)
            return
        self._give_back(probe, Says.BAD if is_bad else Says.GOOD)
        if error is not None:
            self._note(error)
        if is_bad:
            self._begin(OPEN)
            return
        self._successes += 1
        if self._successes >= self.config.success_threshold:
            self._begin(CLOSED)

    def _give_back(self, probe: Probe, says: Says = Says.NOTHING) -> None:
        self._probes.discard(probe)

    def _note(self, error: Exception) -> None:
        self._last_error, self._last_error_time = error, datetime.now(UTC)

    # Changes.

    def change(self, state: CircuitBreakerState) -> Awaitable[None]:
        """Be in a state from now on; what is returned waits until everybody knows."""
        with self._lock:
            self._begin(state)
        self._tell()
        return _DONE

    def restart(self) -> Awaitable[None]:
        """Be closed, and forget what was counted here."""
        with self._lock:
            self._forget()
        return self.change(CLOSED)

    def _begin(self, state: CircuitBreakerState, seconds: float | None = None) -> None:
        """Begin a period; an open one lasts for `seconds`, by default the reset timeout."""
        if state is not self._state:
            self._news.append(CircuitBreakerEvent(self.name, self._state, state))
        self._period, self._state = Period(), state
        self._errors = self._successes = 0
        self._window = window_of(self.config)
        self._open_until = monotonic() + (self.config.reset_timeout if seconds is None else seconds)
        passes = state is FORCED_CLOSED or (state is CLOSED and not self._times_calls)
        self.passing = Admission(self, self._period, 0.0) if passes else None
        self._look_for_quiet()

    def _look_for_quiet(self) -> None:
        is_calm = self._state is CLOSED and self._window is None and not self._errors
        self.quiet = self.passing if is_calm or self._state is FORCED_CLOSED else None

    def _forget(self) -> None:
        self._failed = self._ignored = self._slow = self._cancelled = self._rejected = 0
        self.succeeded = 0
        self._last_error = self._last_error_time = None

    def _tell(self) -> None:
        while self._news:
            try:
                event = self._news.pop(0)
            except IndexError:  # another thread tells
                return
            with self._lock:
                listeners = [*self._listeners]
            for listener in listeners:
                try:
                    listener.changed(event)
                except Exception:
                    _log.exception("a listener of the circuit breaker %r failed", self.name)

    def metrics(self) -> CircuitBreakerMetrics:
        """What it has seen in this process."""
        with self._lock:
            window = self._window
            if window is not None:
                window.forget(monotonic())
            calls = window.calls if window is not None else 0
            return CircuitBreakerMetrics(
                name=self.name,
                state=self._state,
                successes=self.succeeded,
                failures=self._failed,
                ignored=self._ignored,
                slow=self._slow,
                cancelled=self._cancelled,
                rejected=self._rejected,
                errors_in_a_row=self._errors,
                failure_rate=window.failures / calls if window and calls else None,
                slow_call_rate=window.slow / calls if window and calls else None,
                last_error=self._last_error,
                last_error_time=self._last_error_time,
            )
