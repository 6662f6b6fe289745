"""Signals, by the event loop: a method for each."""

import asyncio
import logging
import signal
import threading
from collections.abc import Callable, Iterator
from inspect import isawaitable
from typing import Any

__all__ = ["Handling", "Signals"]

_PREFIX = "handle_"
_log = logging.getLogger("grelmicro.service")


class Signals:
    """What is done on signals: `handle_usr1` on SIGUSR1, and so on, sync or async.

    Derive from it, and add an instance to the context in a plugin. SIGINT and SIGTERM stop the
    service; whoever overrides their methods does so with `stop`.
    """

    _stop: Callable[[], None] | None = None

    def stop(self) -> None:
        """Stop the service; a second time, without waiting for anything in flight."""
        if self._stop is not None:
            self._stop()

    def handle_int(self) -> Any:
        """Stop."""
        self.stop()

    def handle_term(self) -> Any:
        """Stop."""
        self.stop()


class Handling:
    """The signals that are handled for a stage.

    Args:
        stop: What stops it.
    """

    def __init__(self, stop: Callable[[], None]) -> None:
        self._stop = stop
        self._before: dict[signal.Signals, Any] = {}
        self._tasks: set[asyncio.Future[Any]] = set()

    def install(self, signals: Signals) -> None:
        """Handle what an object has methods for.

        Raises:
            ValueError: There is no such signal.
        """
        signals._stop = self._stop
        handlers = dict(_handlers(signals))
        if threading.current_thread() is not threading.main_thread():
            return  # others are sent none
        loop = asyncio.get_running_loop()
        for number, handler in handlers.items():
            self._before.setdefault(number, signal.getsignal(number))
            loop.add_signal_handler(number, self._handle, number, handler)

    def restore(self) -> None:
        """Handle nothing any more; what was before is again."""
        loop = asyncio.get_running_loop()
        for number, before in self._before.items():
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL if before is None else before)
        self._before.clear()

    def _handle(self, number: signal.Signals, handler: Callable[[], Any]) -> None:
        try:
            made = handler()
        except Exception:
            _log.exception("the handler of %s failed", number.name)
            return
        if isawaitable(made):
            task = asyncio.ensure_future(_logged(made, number))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)


async def _logged(made: Any, number: signal.Signals) -> None:
    try:
        await made
    except Exception:
        _log.exception("the handler of %s failed", number.name)


def _handlers(signals: Signals) -> Iterator[tuple[signal.Signals, Callable[[], Any]]]:
    for name in dir(signals):
        if name.startswith(_PREFIX):
            known = signal.Signals.__members__.get(f"SIG{name.removeprefix(_PREFIX).upper()}")
            if known is None:
                raise ValueError(f"{type(signals).__name__}.{name}: there is no such signal")
            yield known, getattr(signals, name)
