"""Forked workers, as their parent sees them."""

import signal
from os import kill
from time import monotonic

from grelmicro.service._worker import Channel

__all__ = ["NEVER", "Crashes", "Worker"]

NEVER = float("inf")
_FIRST, _LONGEST, _MOST, _LONG = 0.1, 30.0, 5, 60.0


class Worker:
    """A child process.

    Args:
        number: Which of the workers it is, or replaces.
        pid: Its process.
        channel: Where it tells how it is.
        patience: Seconds in which it has to be ready.
    """

    def __init__(self, number: int, pid: int, channel: Channel, patience: float) -> None:
        self.number = number
        self.pid = pid
        self.channel = channel
        self.started: float = monotonic()
        self.deadline: float = self.started + patience
        """When it is killed."""
        self.ready: bool = False
        self.asked: bool = False
        """Whether its parent wants it to stop."""
        self.leaves: bool = False
        """Whether it stops because somebody else has sent it a signal."""

    @property
    def stays(self) -> bool:
        """Whether nobody wants it to stop."""
        return not (self.asked or self.leaves)

    def is_ready(self) -> None:
        """It need not hurry any more."""
        self.ready = True
        if self.stays:
            self.deadline = NEVER

    def ask(self, seconds: float) -> None:
        """Ask it to stop within so many seconds."""
        self.asked = True
        self.hurry(seconds)
        self.send(signal.SIGTERM)

    def hurry(self, seconds: float) -> None:
        """Leave it no more than so many seconds."""
        self.deadline = min(self.deadline, monotonic() + seconds)

    def send(self, number: signal.Signals) -> None:
        """Send it a signal; nobody else has its pid until it is waited for."""
        kill(self.pid, number)

    def __str__(self) -> str:
        return f"worker {self.number} (pid {self.pid})"


class Crashes:
    """Which workers have crashed, how often in a row, and when they are started again."""

    def __init__(self) -> None:
        self.due: dict[int, float] = {}
        """When, by the worker's number."""
        self._counts: dict[int, int] = {}

    def count(self, worker: Worker) -> float | None:
        """Count one more, unless the last is long ago; the pause, or None if it is in vain."""
        recent = monotonic() - worker.started < _LONG
        count = self._counts[worker.number] = recent * self._counts.get(worker.number, 0) + 1
        if count > _MOST:
            return None
        pause: float = min(_LONGEST, _FIRST * 2 ** (count - 1))
        self.due[worker.number] = monotonic() + pause
        return pause

    def pop(self) -> list[int]:
        """The numbers of those whose pause is over."""
        over = [number for number, due in self.due.items() if due <= monotonic()]
        for number in over:
            del self.due[number]
        return over
