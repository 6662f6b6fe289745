"""The latest calls, by number or by time: how many they were, failed, and were slow."""

from collections import deque

from grelmicro.resilience._breaker_config import CircuitBreakerConfig

__all__ = ["SLOTS", "CountWindow", "TimeWindow", "Window", "window_of"]

SLOTS = 10
"""Parts of a window that is counted in seconds; a part is forgotten as a whole."""


class Window:
    """Some calls, and what became of them.

    Args:
        config: When they are too many that failed, or were slow.
    """

    def __init__(self, config: CircuitBreakerConfig) -> None:
        self.calls = self.failures = self.slow = 0
        self._fewest = config.fewest_calls
        self._failure_rate = config.failure_rate
        self._slow_rate = config.slow_call_rate

    def add(self, failed: int, slow: int, now: float) -> None:
        """Count a call."""
        raise NotImplementedError

    def forget(self, now: float) -> None:
        """Forget what is too old."""

    @property
    def trips(self) -> bool:
        """Whether a rate has reached its threshold, and there are enough calls for that."""
        if self.calls < self._fewest:
            return False
        rate = self._failure_rate
        if rate is not None and self.failures / self.calls >= rate:
            return True
        rate = self._slow_rate
        return rate is not None and self.slow / self.calls >= rate


class CountWindow(Window):
    """The last calls."""

    def __init__(self, config: CircuitBreakerConfig) -> None:
        super().__init__(config)
        self._length = config.calls_in_window
        self._latest: deque[tuple[int, int]] = deque()

    def add(self, failed: int, slow: int, now: float) -> None:
        """Count a call, and forget the one that is no longer among the last."""
        self._latest.append((failed, slow))
        self.failures += failed
        self.slow += slow
        if self.calls < self._length:
            self.calls += 1
        else:
            old_failed, old_slow = self._latest.popleft()
            self.failures -= old_failed
            self.slow -= old_slow


class TimeWindow(Window):
    """The calls of the last seconds, to a tenth of them."""

    def __init__(self, config: CircuitBreakerConfig) -> None:
        super().__init__(config)
        self._width = (config.window_seconds or 0.0) / SLOTS
        self._slots: deque[list[int]] = deque()

    def add(self, failed: int, slow: int, now: float) -> None:
        """Count a call, and forget those that are too old."""
        number = int(now // self._width)
        if not self._slots or self._slots[-1][0] != number:
            self.forget(now)
            self._slots.append([number, 0, 0, 0])
        slot = self._slots[-1]
        slot[1] += 1
        slot[2] += failed
        slot[3] += slow
        self.calls += 1
        self.failures += failed
        self.slow += slow

    def forget(self, now: float) -> None:
        """Forget the parts that are too old."""
        oldest = int(now // self._width) - SLOTS
        while self._slots and self._slots[0][0] <= oldest:
            _, calls, failures, slow = self._slots.popleft()
            self.calls -= calls
            self.failures -= failures
            self.slow -= slow


def window_of(config: CircuitBreakerConfig) -> Window | None:
    """An empty window, if rates are what trips the breaker."""
    if not config.by_rate:
        return None
    return CountWindow(config) if config.window_seconds is None else TimeWindow(config)
