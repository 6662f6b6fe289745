"""Single flight: of all callers that miss a key, one loads it and the others share the outcome."""

import asyncio
import concurrent.futures
import threading
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any, Generic, TypeVar

from grelmicro._threads import on_a_loop
from grelmicro.cache._loads import Load, Loads

__all__ = ["TaskFlights", "ThreadFlights"]

T = TypeVar("T")

_RETRY = object()


class _TaskFlight:
    __slots__ = ("load", "task", "waiters")

    def __init__(self, load: Load, task: "asyncio.Task[Any]") -> None:
        self.load = load
        self.task = task
        self.waiters = 0

    def joinable(self) -> bool:
        """Whether its outcome will do for a caller of this loop that comes now."""
        same_loop = self.task.get_loop() is asyncio.get_running_loop()
        return same_loop and not self.load.superseded and not self.task.done()


_above: ContextVar[tuple[Load, ...]] = ContextVar("grelmicro_loads_above", default=())
"""The loads that this code runs on behalf of: to wait for one of them would be for ever."""


class TaskFlights:
    """Single flight between tasks.

    The load runs in a task of its own, so that a caller that is cancelled takes nothing from the
    others; when all of them are gone, it is cancelled too.
    """

    def __init__(self, loads: Loads) -> None:
        self._loads = loads
        self._flights: dict[str, _TaskFlight] = {}

    def __len__(self) -> int:
        return len(self._flights)

    async def fly(self, key: str, run: Callable[[Load], Awaitable[T]]) -> T:
        """Share the flight for `key`, or start it with `run`."""
        flight = self._flights.get(key)
        if flight is None or not flight.joinable():
            flight = self._start(key, run)
        elif flight.load in _above.get():
            return await self._alone(key, run)
        flight.waiters += 1
        try:
            result: T = await asyncio.shield(flight.task)
            return result
        except asyncio.CancelledError:
            if flight.waiters == 1 and not flight.task.done():
                await self._abandon(flight)
            raise
        finally:
            flight.waiters -= 1

    def _start(self, key: str, run: Callable[[Load], Awaitable[T]]) -> _TaskFlight:
        load = self._loads.begin(key)

        async def body() -> T:
            _above.set((*_above.get(), load))
            return await run(load)

        flight = _TaskFlight(load, asyncio.get_running_loop().create_task(body()))
        self._flights[key] = flight
        flight.task.add_done_callback(lambda _: self._landed(flight))
        return flight

    def _landed(self, flight: _TaskFlight) -> None:
        self._loads.end(flight.load)
        if self._flights.get(flight.load.key) is flight:
            del self._flights[flight.load.key]
        if not flight.task.cancelled():
            flight.task.exception()  # whoever waited has it; nobody else is owed a report

    async def _abandon(self, flight: _TaskFlight) -> None:
        """Cancel a flight that nobody waits for any more, and see it end."""
        flight.load.superseded = True
        flight.task.cancel()
        await asyncio.wait([flight.task])

    async def _alone(self, key: str, run: Callable[[Load], Awaitable[T]]) -> T:
        load = self._loads.begin(key)
        try:
            return await run(load)
        finally:
            self._loads.end(load)


class _ThreadFlight(Generic[T]):
    __slots__ = ("load", "outcome", "thread")

    def __init__(self, load: Load) -> None:
        self.load = load
        self.outcome: concurrent.futures.Future[T] = concurrent.futures.Future()
        self.thread = threading.get_ident()

    def deadlocks(self) -> bool:
        """Whether to wait here would be for ever, or would stop an event loop."""
        return self.thread == threading.get_ident() or on_a_loop()


class ThreadFlights:
    """Single flight between threads: the first caller loads in its own thread.

    Nobody waits on the thread of a running loop, which the load itself may need: such a caller
    loads for itself.
    """

    def __init__(self, loads: Loads) -> None:
        self._loads = loads
        self._flights: dict[str, _ThreadFlight[Any]] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._flights)

    def fly(self, key: str, run: Callable[[Load], T]) -> T:
        """Share the flight for `key`, or start it with `run`."""
        while True:
            with self._lock:
                flight = self._flights.get(key)
                leads = flight is None or flight.load.superseded
                if flight is None or leads:
                    flight = self._flights[key] = _ThreadFlight(self._loads.begin(key))
            if leads:
                return self._lead(flight, run)
            if flight.deadlocks():
                return self._alone(key, run)
            outcome = flight.outcome.result()
            if outcome is not _RETRY:
                result: T = outcome
                return result

    def _lead(self, flight: _ThreadFlight[Any], run: Callable[[Load], T]) -> T:
        try:
            value = run(flight.load)
        except BaseException as error:
            self._land(flight)
            if isinstance(error, Exception):
                flight.outcome.set_exception(error)
            else:
                flight.outcome.set_result(_RETRY)  # the thread is being ended, not the load
            raise
        self._land(flight)
        flight.outcome.set_result(value)
        return value

    def _land(self, flight: _ThreadFlight[Any]) -> None:
        self._loads.end(flight.load)
        with self._lock:
            if self._flights.get(flight.load.key) is flight:
                del self._flights[flight.load.key]

    def _alone(self, key: str, run: Callable[[Load], T]) -> T:
        load = self._loads.begin(key)
        try:
            return run(load)
        finally:
            self._loads.end(load)
