"""A stage: prepares plugins, runs their tasks, and undoes it all within a bounded time."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from grelmicro.inject.engine import shielded
from grelmicro.service import context
from grelmicro.service._errors import StartupTimeoutError
from grelmicro.service._lifecycle import Cancel, Observer, Ready, Teardown
from grelmicro.service._loading import Loader
from grelmicro.service._references import Plugin, Reference
from grelmicro.service._signals import Handling, Signals
from grelmicro.service._systemd import Notifier
from grelmicro.service._tasks import Tasks
from grelmicro.service.config import ConfigSource

__all__ = ["Stage"]

_DRAIN, _CANCEL = 0.8, 0.9
"""Which parts of the whole grace are over when draining ends, and when cancelling does."""
_FORCED = 1.0
"""Seconds for each, once it is forced."""
_log = logging.getLogger("grelmicro.service")


class Stage:
    """Where plugins are prepared and their tasks run.

    Args:
        grace: Seconds from the moment it is to stop until everything is undone.
        startup_timeout: Seconds in which all plugins have to be prepared, and servers to start.
        observer: Who is told when it is ready, and when it stops.
        handles_signals: Whether it stops on SIGINT and SIGTERM.

    Raises:
        ValueError: A time is not positive.
    """

    def __init__(
        self,
        *,
        grace: float = 25.0,
        startup_timeout: float = 60.0,
        observer: Observer | None = None,
        handles_signals: bool = True,
    ) -> None:
        for name, seconds in (("grace", grace), ("startup_timeout", startup_timeout)):
            if not seconds > 0:
                raise ValueError(f"{name}: {seconds} is no number of seconds above 0")
        self._grace = grace
        self._startup_timeout = startup_timeout
        self._main: asyncio.Task[Any] | None = None
        self._preparing = False
        self._begun = 0.0
        self.context: context.Context = context.Context(context.current())
        """What the stage itself adds to."""
        self.plugin_context: context.Context = context.Context(self.context)
        """What all plugins and tasks share."""
        add = self.context.add
        self.ready: Ready = add(Ready(observer or Notifier()))
        self.cancel: Cancel = add(Cancel(self.ready, grace * _DRAIN))
        self.teardown: Teardown = add(Teardown())
        self._tasks = Tasks(self.cancel)
        self.load: Loader = add(Loader(self.plugin_context, self._accept))
        self._signals = add(Signals())
        self._handling = Handling(self.stop) if handles_signals else None

    async def run(self, references: Sequence[Reference] = ()) -> list[Any]:
        """Prepare plugins, run everything until it is to stop, and undo it.

        Args:
            references: None of them relative.

        Returns:
            What became of each task, exceptions as values.

        Raises:
            Exception: What a plugin has raised while it was prepared.
            StartupTimeoutError: Plugins were not prepared in time.
            ExceptionGroup: What failed when everything was undone, and nothing else did.
        """
        async with self.prepared(references):
            if not asyncio.Event.is_set(self.cancel):
                await self._serve()
        return self._tasks.results()

    @asynccontextmanager
    async def prepared(self, references: Sequence[Reference] = ()) -> AsyncGenerator[None]:
        """Prepare plugins for the block, in their context, and undo that; what is to be run is not.

        Args:
            references: None of them relative.

        Raises:
            Exception: As `run`.
        """
        self._main, self._begun = asyncio.current_task(), _now()
        self.teardown.at_home()
        error: BaseException | None = None
        with context.entered(self.plugin_context):
            try:
                self._handle_signals()
                await self.prepare(references)
                yield
            except BaseException as caught:  # whatever it is, all has to be undone
                error = caught
            await self._close(error)

    def stop(self) -> None:
        """Stop; a second time, without waiting for anything in flight."""
        if asyncio.Event.is_set(self.cancel):
            _log.warning("stopping without waiting any longer")
            self._tasks.hasten(_now() + _FORCED)
            self.teardown.hasten(_now() + 2 * _FORCED)
            return
        self.cancel.set()
        if self._preparing and self._main is not None:
            self._main.cancel()

    async def prepare(self, references: Sequence[Reference]) -> None:
        """Prepare plugins, one after the other; less than all if it is stopped meanwhile.

        Raises:
            Exception: What a plugin has raised.
            StartupTimeoutError: They were not prepared in time.
        """
        self._preparing = True
        try:
            async with asyncio.timeout(self._startup_timeout) as timeout:
                await self._load_all(references)
        except TimeoutError:
            if not timeout.expired():
                raise
            raise StartupTimeoutError(self._late()) from None
        except asyncio.CancelledError:
            if not self._is_stopped_by_us():
                raise
        finally:
            self._preparing = False

    async def _load_all(self, references: Sequence[Reference]) -> None:
        for reference in references:
            await self.load.load(reference)
        self._handle_signals()
        self._warn_of_unread()

    def _late(self) -> str:
        names = " and ".join(map(repr, self.load.interrupted))
        return (
            f"the plugin {names} had not been prepared after {self._startup_timeout:g} seconds: "
            "see what it waits for, or give it time with startup_timeout="
        )

    def _is_stopped_by_us(self) -> bool:
        """Whether the cancellation that was caught was that of `stop`, and the only one."""
        stopped = self._main is not None and asyncio.Event.is_set(self.cancel)
        return stopped and self._main is not None and not self._main.uncancel()

    async def _serve(self) -> None:
        self._tasks.start()
        self.ready.begin()
        stops = asyncio.ensure_future(asyncio.Event.wait(self.cancel))
        try:
            await asyncio.wait([stops], timeout=self._begun + self._startup_timeout - _now())
            if self.ready.awaited() and not stops.done():
                raise StartupTimeoutError(
                    f"{' and '.join(self.ready.awaited())} did not start within "
                    f"{self._startup_timeout:g} seconds: see what they wait for, or give them time "
                    "with startup_timeout="
                )
            await stops
        finally:
            stops.cancel()

    def _accept(self, plugin: Plugin, works: Sequence[Awaitable[Any]]) -> None:
        self._tasks.accept(plugin, works)
        if not self._preparing:  # it is loaded by a task
            self._handle_signals()

    async def _close(self, error: BaseException | None) -> None:
        self.cancel.set()
        try:
            failed, cancelled = await shielded(self._end(error), self._grace)
        finally:
            if self._handling is not None:
                self._handling.restore()
        self._raise(error, failed, cancelled)

    async def _end(self, error: BaseException | None) -> list[BaseException]:
        started = _now()
        self._tasks.dismiss()
        if error is not None:
            self._tasks.hasten(started + _FORCED)
        await self._tasks.drain(started + self._grace * _DRAIN, started + self._grace * _CANCEL)
        return await self.teardown.unwind(error, started + self._grace)

    def _raise(
        self,
        error: BaseException | None,
        failed: list[BaseException],
        cancelled: BaseException | None,
    ) -> None:
        if error is not None:
            for each in failed:
                _log.error("what was to be undone has failed as well", exc_info=each)
            raise error
        if cancelled is not None:
            raise cancelled
        if failed:
            raise BaseExceptionGroup("the service ended, but not all of it was undone", failed)

    def _handle_signals(self) -> None:
        if self._handling is not None:
            self._handling.install(self.plugin_context.get(Signals))

    def _warn_of_unread(self) -> None:
        for source in self.plugin_context.find(ConfigSource).values():
            if names := source.unread():
                _log.warning("no configuration is read from the variables %s", ", ".join(names))


def _now() -> float:
    return asyncio.get_running_loop().time()
