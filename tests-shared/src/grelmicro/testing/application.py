"""What fixtures give to the tests of an application: an open app, and a clock to advance."""

import asyncio
import importlib
import math
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Generator, Iterable
from contextlib import contextmanager
from typing import Any

import pytest

from grelmicro import Grelmicro
from grelmicro.providers import load

__all__ = ["VirtualClock", "app_on_memory"]

_MODULES = ("grelmicro.cache.memory", "grelmicro.sync.memory", "grelmicro.resilience.memory")
"""What has to be there to be patched; all else that is loaded is patched as well."""

_NANOSECONDS = 1_000_000_000


@contextmanager
def app_on_memory() -> Generator[Grelmicro]:
    """Open an app on memory, on an event loop in a thread of its own.

    So it is open in tests with any event loop and in those with none, and callers in threads have a
    loop to run on.
    """
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="micro", daemon=True)
    thread.start()

    def run(coroutine: Coroutine[Any, Any, object]) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, loop).result(10)

    app = Grelmicro(uses=[load("memory")()])
    try:
        run(app.__aenter__())
        yield app
        run(app.__aexit__(None, None, None))
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


class VirtualClock:
    """The monotonic clock of the backends in memory, which can be advanced.

    It goes on by itself as the real one does. What goes by the event loop's clock, such as
    `asyncio.sleep` and the renewal of a lock in the background, does not follow it.
    """

    def __init__(self) -> None:
        self._ahead = 0

    def advance(self, seconds: float) -> None:
        """Let time pass.

        Args:
            seconds: 0 or more, and finite.

        Raises:
            ValueError: Time does not go back.
        """
        if not 0 <= seconds < math.inf:
            raise ValueError(f"seconds: expected 0 or more, and finite, not {seconds!r}")
        self._ahead += int(seconds * _NANOSECONDS)

    def monotonic(self) -> float:
        """Seconds."""
        return time.monotonic() + self._ahead / _NANOSECONDS

    def monotonic_ns(self) -> int:
        """Nanoseconds."""
        return time.monotonic_ns() + self._ahead

    def take_over(self, patch: pytest.MonkeyPatch) -> None:
        """Stand in for the clock in all modules of grelmicro."""
        for name in _MODULES:
            importlib.import_module(name)
        clocks: Iterable[tuple[str, Callable[[], float]]] = (
            ("monotonic", time.monotonic),
            ("monotonic_ns", time.monotonic_ns),
        )
        for name, module in [*sys.modules.items()]:
            if name.startswith("grelmicro.") and not name.startswith("grelmicro.testing"):
                for clock, real in clocks:
                    if vars(module).get(clock) is real:
                        patch.setattr(module, clock, getattr(self, clock))
