"""What carries the circuits of one process to a fleet's backend, and back."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Protocol

from grelmicro._threads import on_a_loop
from grelmicro.errors import OutOfContextError
from grelmicro.resilience._breaker_config import CircuitBreakerConfig
from grelmicro.resilience._reports import Answer, Record, Report
from grelmicro.resilience._shared_circuit import SharedCircuit

__all__ = ["Fleet", "SharedBackend"]

_log = logging.getLogger("grelmicro.resilience")

_LOOK = 5.0
"""Seconds between two looks at what messages should have told."""

_LOOK_UNHEARING = 0.5
"""Seconds between two looks where no messages are heard."""

_LOOK_AWAY = 1.0
"""Seconds between two looks whether the backend answers again."""

_SETTLE = 2.0
"""Seconds that a backend which is being closed waits for what is still to be reported."""


class SharedBackend(Protocol):
    """What a fleet's backend can do, for one process."""

    _loop: asyncio.AbstractEventLoop | None

    async def exchange(self, name: str, config: CircuitBreakerConfig, report: Report) -> Answer:
        """Merge a report into what is known of a circuit, in one step."""
        ...

    async def look(self, names: Sequence[str]) -> Iterable[Record]:
        """What is known of circuits."""
        ...

    def listen(self, names: Sequence[str]) -> bool:
        """Have `Fleet.heard` called with their changes; whether there is a way to hear."""
        ...


class Fleet:
    """Reports what happens here, and looks at what happened elsewhere, in the background.

    Args:
        backend: Where to, which works whenever its provider is open.
        lease: Seconds after which a permit is free that nobody holds on to.
    """

    def __init__(self, backend: SharedBackend, *, lease: float) -> None:
        self.is_away: bool = False
        """Whether the backend cannot be asked."""
        self._backend = backend
        self._lease = lease
        self._circuits: dict[tuple[str, CircuitBreakerConfig], SharedCircuit] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._begin()

    def _begin(self) -> None:
        self._pushers: dict[SharedCircuit, asyncio.Task[None]] = {}
        self._timers: dict[SharedCircuit, asyncio.TimerHandle] = {}
        self._keeper: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._hears = False
        self._closing = False

    def circuit(self, name: str, config: CircuitBreakerConfig) -> SharedCircuit:
        """The circuit of a name and settings."""
        known = self._circuits.get((name, config))
        if known is None:
            made = SharedCircuit(name, config, self)
            known = self._circuits.setdefault((name, config), made)
            self.wake()
        return known

    @property
    def names(self) -> list[str]:
        """The names of all circuits."""
        return [*dict.fromkeys(name for name, _ in [*self._circuits])]

    def heard(self, name: str, record: Record | None) -> None:
        """Take over what another replica says; with None, see what was missed."""
        circuits = [each for each in [*self._circuits.values()] if each.name == name]
        is_clear = [record is not None and each.heard(record) for each in circuits]
        if not all(is_clear):
            self.wake()

    # From any thread.

    def push(self, circuit: SharedCircuit, delay: float = 0.0) -> None:
        """Report for a circuit soon."""
        self._there(lambda: self._push(circuit, delay))

    def wake(self) -> None:
        """Look at what happened elsewhere soon."""
        self._there(self._keep_up)

    def _there(self, do: Callable[[], None]) -> None:
        """Do something on the loop that the backend is used on, if there is one."""
        here = asyncio.get_running_loop() if on_a_loop() else None
        loop = self._backend._loop or here
        if loop is None or loop.is_closed():
            return
        if loop is here:
            self._move_to(loop)
            do()
            return
        try:
            loop.call_soon_threadsafe(self._there, do)
        except RuntimeError:  # closed just now
            return

    def _move_to(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin anew on a loop: what ran on another one was ended with it."""
        if loop is not self._loop:
            self._loop = loop
            self._begin()

    # On the loop.

    def _push(self, circuit: SharedCircuit, delay: float = 0.0) -> None:
        self._keep_alive()
        if circuit in self._pushers:
            return
        assert self._loop is not None
        if delay:
            if circuit not in self._timers:
                self._timers[circuit] = self._loop.call_later(delay, self._push, circuit)
            return
        timer = self._timers.pop(circuit, None)
        if timer is not None:
            timer.cancel()
        self._pushers[circuit] = self._loop.create_task(self._report(circuit))

    async def _report(self, circuit: SharedCircuit) -> None:
        """Report until there is nothing that does not wait."""
        try:
            while await self._exchange(circuit) and circuit.is_urgent:
                pass
        finally:
            del self._pushers[circuit]
        if circuit.is_news and not self.is_away:
            self._push(circuit, _LOOK_UNHEARING / 2)

    async def _exchange(self, circuit: SharedCircuit) -> bool:
        report = circuit.take()
        try:
            answer = await self._backend.exchange(circuit.name, circuit.config, report)
        except BaseException as error:
            self._failed(error)
            circuit.failed(report, error)
            if not isinstance(error, Exception):
                raise
            return False
        self._answered()
        circuit.answered(report, answer)
        if any(answer.granted):
            self._changed.set()  # there are permits to hold on to
        return True

    def _keep_up(self) -> None:
        self._changed.set()
        self._keep_alive()

    def _keep_alive(self) -> None:
        if not self._closing and (self._keeper is None or self._keeper.done()):
            assert self._loop is not None
            self._keeper = self._loop.create_task(self._keep())

    async def _keep(self) -> None:
        """Look at all circuits from time to time, and hold on to permits."""
        while True:
            self._changed.clear()
            try:
                self._hears = self._backend.listen(self.names)
                await self._look()
            except OutOfContextError:  # closed; the next call that has something to say begins anew
                return
            except Exception as error:
                self._failed(error)
            else:
                self._answered()
            holds = [each.renew() for each in [*self._circuits.values()]]
            self._push_news()
            await _at_most(self._pause(any(holds)), self._changed.wait())

    async def _look(self) -> None:
        names = self.names
        known = dict(zip(names, await self._backend.look(names), strict=True))
        for circuit in [*self._circuits.values()]:
            if circuit.name in known:
                circuit.heard(known[circuit.name])

    def _push_news(self) -> None:
        if not self.is_away:
            for circuit in [*self._circuits.values()]:
                if circuit.is_news:
                    self._push(circuit)

    def _pause(self, holds: bool) -> float:
        if self.is_away:
            return _LOOK_AWAY
        pause = _LOOK if self._hears else _LOOK_UNHEARING
        return min(pause, self._lease / 3) if holds else pause

    def _failed(self, error: BaseException) -> None:
        if not self.is_away and isinstance(error, Exception):
            self.is_away = True
            self._changed.set()
            _log.warning(
                "circuit breakers go by what this process knows: their backend failed: %s: %s",
                *(type(error).__name__, error),
            )

    def _answered(self) -> None:
        if self.is_away:
            self.is_away = False
            _log.warning("circuit breakers are shared again: their backend answered")
            self._push_news()

    async def close(self) -> None:
        """Report what does not wait, within a moment, and end what runs."""
        if self._loop is not asyncio.get_running_loop():
            return
        keeper, self._keeper = self._keeper, None
        self._closing = True
        try:
            await _ended([keeper] if keeper else [])
            if self._pushers:
                await asyncio.wait([*self._pushers.values()], timeout=_SETTLE)
            await _ended([*self._pushers.values()])
        finally:
            for timer in self._timers.values():
                timer.cancel()
            self._timers.clear()
            self._closing = False


async def _at_most(seconds: float, awaited: Awaitable[object]) -> None:
    try:
        async with asyncio.timeout(seconds):
            await awaited
    except TimeoutError:
        pass


async def _ended(tasks: Sequence["asyncio.Task[None]"]) -> None:
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
