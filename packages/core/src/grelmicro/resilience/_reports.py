"""What a process and a fleet's backend tell each other of a circuit."""

import asyncio
from collections.abc import Generator
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import NamedTuple

from grelmicro.resilience._breaker_state import CircuitBreakerState
from grelmicro.resilience._tickets import Says

__all__ = ["STATES", "Answer", "Ask", "Push", "Record", "Report"]

STATES = tuple(CircuitBreakerState)
"""A state's number is its place here."""


class Record(NamedTuple):
    """What a backend knows of a circuit."""

    version: int
    """Rises with every change of state; 0 of a circuit that the backend does not know."""
    state: CircuitBreakerState
    remaining: float
    """Seconds that it stays open."""
    errors: int
    """Errors in a row, of all replicas."""
    successes: int
    """Probes of all replicas that went well."""

    @classmethod
    def of(cls, version: int, state: int, remaining: int, errors: int, successes: int) -> "Record":
        """The record that these whole numbers are, with microseconds of time."""
        return cls(version, STATES[state], remaining / 1e6, errors, successes)

    @classmethod
    def parsed(cls, text: bytes | str) -> "Record":
        """The record that these numbers are, with spaces in between."""
        return cls.of(*map(int, text.split()))


class Answer(NamedTuple):
    """What a backend says to a report."""

    record: Record
    granted: tuple[bool, ...]
    """Whether each of the permits that were asked for is granted."""


class Ask(NamedTuple):
    """A permit that is asked for."""

    token: str
    granted: "Future[bool | None]"
    """None when the backend cannot be asked."""


class Push:
    """A change that is on its way: awaited, it waits until the backend knows.

    Raises:
        ResilienceError: When awaited: the backend failed. It is tried again in the background.
    """

    def __init__(self) -> None:
        self.future: Future[None] = Future()
        self.future.set_running_or_notify_cancel()  # who waits may leave, the change may not

    def __await__(self) -> Generator[object, None, None]:
        return asyncio.wrap_future(self.future).__await__()


@dataclass(slots=True)
class Report:
    """What happened in a process since its last report.

    The backend does what it says in this order: `held`, `command` or `trip`, `ended`, the counts,
    `asks`.
    """

    command: CircuitBreakerState | None = None
    """What somebody changed the state to by hand."""
    trip: bool = False
    """Whether calls here were enough to open it."""
    ended: list[tuple[str, Says]] = field(default_factory=list)
    """The probes that ended, by their tokens, and what they say."""
    fresh: bool = False
    """Whether the state was changed here since the last report; the counts came after that."""
    reset: bool = False
    """Whether there was a success that ends what errors were in a row."""
    errors: int = 0
    """Errors in a row, since then if there was one."""
    calls: int = 0
    failures: int = 0
    slow: int = 0
    asks: list[Ask] = field(default_factory=list)
    waiting: list[Push] = field(default_factory=list)
    renews: bool = False
    """Whether it is time to say which permits are held still."""

    base: int = 0
    """The version that the counts, the trip and the probes are about; 0 if none was heard of."""
    state: CircuitBreakerState = CircuitBreakerState.CLOSED
    """The state here, for a backend that lost what it knew."""
    remaining: float = 0.0
    """Seconds for which that is to stay open."""
    held: tuple[str, ...] = ()
    """The tokens of the probes that run."""

    @property
    def is_urgent(self) -> bool:
        """Whether it says more than what calls are to be counted in a window."""
        return bool(
            self.fresh or self.ended or self.reset or self.errors or self.asks or self.renews
        )

    @property
    def is_news(self) -> bool:
        """Whether it says anything."""
        return self.is_urgent or self.calls > 0

    def forget_counts(self) -> None:
        """Begin to count anew."""
        self.reset, self.errors, self.calls, self.failures, self.slow = False, 0, 0, 0, 0
