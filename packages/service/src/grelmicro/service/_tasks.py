"""The tasks of a stage: started together, looked after, and ended within a bounded time."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

from grelmicro.service._lifecycle import Cancel, heeding, running
from grelmicro.service._loading import dismiss
from grelmicro.service._references import Plugin

__all__ = ["Tasks"]

_log = logging.getLogger("grelmicro.service")


class _Entry:
    """One thing to be run."""

    def __init__(self, plugin: Plugin, work: Awaitable[Any]) -> None:
        self.plugin = plugin
        self.work = work
        self.task: asyncio.Task[Any] | None = None

    async def run(self) -> Any:
        running.set(self)
        try:
            return await self.work
        except (SystemExit, KeyboardInterrupt) as leaving:  # in a task, they would end the loop
            return leaving

    def result(self) -> Any:
        """Its value, its exception as a value; of what was never run or never ended, too."""
        task = self.task
        if task is None or not task.done() or task.cancelled():
            return asyncio.CancelledError()
        return task.exception() or task.result()


class Tasks:
    """Everything that plugins want to be run.

    Args:
        cancel: Set when one of them raises, or when all are done.
    """

    def __init__(self, cancel: Cancel) -> None:
        self._cancel = cancel
        self._entries: list[_Entry] = []
        self._running: dict[asyncio.Task[Any], _Entry] = {}
        self._started = False
        self._drained = self._cancelled = float("inf")
        self._hastened = asyncio.Event()

    def accept(self, plugin: Plugin, works: Sequence[Awaitable[Any]]) -> None:
        """Take in what a plugin wants to be run; at once, if the others run already."""
        entries = [_Entry(plugin, work) for work in works]
        self._entries += entries
        if self._started:
            self._start(entries)

    def start(self) -> None:
        """Run them all."""
        self._started = True
        self._start(self._entries)
        self._look()

    def results(self) -> list[Any]:
        """One for each, in the order in which they were taken in."""
        return [entry.result() for entry in self._entries]

    def dismiss(self) -> None:
        """Forget what was never started."""
        for entry in self._entries:
            if entry.task is None:
                dismiss(entry.work)

    async def drain(self, drained: float, cancelled: float) -> None:
        """End them: those that heed `Cancel` are given time, the others are cancelled at once.

        Args:
            drained: The loop's time until which it is given.
            cancelled: The time until which those that are cancelled are waited for.
        """
        self._drained = min(self._drained, drained)
        self._cancelled = min(self._cancelled, cancelled)
        await asyncio.sleep(0)  # those that have just begun may ask for Cancel now
        heeded = {*heeding(self._cancel)}
        self._cancel_all(t for t, e in self._running.items() if not {t, e, e.work} & heeded)
        await self._wait(lambda: self._drained)
        self._cancel_all(self._running)
        await self._wait(lambda: self._cancelled)
        for entry in self._running.values():
            _log.error("a task of the plugin %r ignores its cancellation", entry.plugin.name)

    def hasten(self, cancelled: float) -> None:
        """Give no time any more but for being cancelled, until then."""
        self._drained = 0.0
        self._cancelled = min(self._cancelled, cancelled)
        self._hastened.set()

    def _start(self, entries: Iterable[_Entry]) -> None:
        for entry in entries:
            task = entry.task = asyncio.create_task(entry.run(), name=entry.plugin.name)
            self._running[task] = entry
            task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[Any]) -> None:
        entry = self._running.pop(task)
        dismiss(entry.work)  # it may have been cancelled before it began
        if not task.cancelled():
            error = task.exception()
            if error is not None:
                _log.error("a task of the plugin %r failed", entry.plugin.name, exc_info=error)
            if error is not None or isinstance(task.result(), SystemExit | KeyboardInterrupt):
                self._cancel.set()
        self._look()

    def _look(self) -> None:
        if not self._running:
            self._cancel.set()

    def _cancel_all(self, tasks: Iterable[asyncio.Task[Any]]) -> None:
        for task in [*tasks]:
            task.cancel()

    async def _wait(self, until: Callable[[], float]) -> None:
        """Wait until all are done, or until a time that may be brought forward."""
        hastened = asyncio.create_task(self._hastened.wait())
        loop = asyncio.get_running_loop()
        while self._running and (left := until() - loop.time()) > 0:
            waited: set[asyncio.Task[Any]] = {*self._running, hastened}
            waited -= {hastened} if hastened.done() else set()
            await asyncio.wait(waited, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        hastened.cancel()
