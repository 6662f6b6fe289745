"""What a stage tells its plugins, and they it: whether it is ready, its end, and what to undo."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from contextvars import ContextVar
from inspect import isawaitable
from typing import Any, Literal, Protocol, TypeVar
from weakref import WeakSet

__all__ = ["Cancel", "Observer", "Ready", "Teardown", "heeding", "running"]

T = TypeVar("T")

running: ContextVar[object] = ContextVar("grelmicro_service_running", default=None)
"""Which of a stage's tasks this is, or belongs to."""


class Observer(Protocol):
    """Who wants to know how a stage is doing."""

    def ready(self) -> None: ...

    def stopping(self) -> None: ...


class Ready(asyncio.Event):
    """Set while the service can be used: from when all is up until it begins to stop."""

    def __init__(self, observer: Observer) -> None:
        super().__init__()
        self._observer = observer
        self._awaited: dict[object, str] = {}
        self._begun = False
        self._over = False

    def expect(self, what: str) -> Callable[[], None]:
        """Hold it back until what is returned is called; for a server that takes time to start."""
        key = object()
        self._awaited[key] = what

        def arrived() -> None:
            self._awaited.pop(key, None)
            self._look()

        return arrived

    def awaited(self) -> list[str]:
        """What it is held back by."""
        return [*self._awaited.values()]

    def begin(self) -> None:
        """Let it be set once nothing holds it back; the stage says so."""
        self._begun = True
        self._look()

    def end(self) -> None:
        """Clear it for good."""
        if not self._over:
            self._over = True
            self.clear()
            self._observer.stopping()

    def _look(self) -> None:
        if self._begun and not self._over and not self._awaited and not self.is_set():
            self.set()
            self._observer.ready()


class Cancel(asyncio.Event):
    """Set when the service is to stop; setting it stops the service.

    Whoever waits for it, or asks whether it is set, is given time to finish; any other task is
    cancelled at once.

    Args:
        ready: What ends before it is set.
        grace: See the attribute.
    """

    def __init__(self, ready: Ready, grace: float) -> None:
        super().__init__()
        self.grace: float = grace
        """Seconds that tasks are given once it is set."""
        self._ready = ready
        self._heeding: WeakSet[Any] = WeakSet()

    def set(self) -> None:
        """Stop the service."""
        self._ready.end()
        super().set()

    def is_set(self) -> bool:
        """Whether the service is to stop."""
        self._note()
        return super().is_set()

    async def wait(self) -> Literal[True]:
        """Wait until the service is to stop."""
        self._note()
        await super().wait()
        return True

    def _note(self) -> None:
        for each in (running.get(), _current_task()):
            if each is not None:
                self._heeding.add(each)


def heeding(cancel: Cancel) -> WeakSet[Any]:
    """The tasks that have asked, by what `running` says and by themselves."""
    return cancel._heeding


def _current_task() -> asyncio.Task[Any] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:  # no loop runs here
        return None


Exit = Callable[[BaseException | None], Awaitable[object]]


class Teardown:
    """What is undone when the service ends: the last first, all of it, whatever fails."""

    def __init__(self) -> None:
        self._exits: list[Exit] = []
        self._home: asyncio.Task[Any] | None = None
        self._deadline = float("inf")
        self._timeout: asyncio.Timeout | None = None

    def add(self, work: Awaitable[Any] | Callable[[], Any]) -> None:
        """Have something done at the end.

        Args:
            work: A coroutine, or a function, sync or async, without arguments.

        Raises:
            TypeError: It is neither.
        """
        if not isawaitable(work) and not callable(work):
            raise TypeError(f"Teardown.add({type(work).__name__}): pass a coroutine or a function")

        async def done(_error: BaseException | None) -> None:
            made = work if isawaitable(work) else work()
            if isawaitable(made):
                await made

        self._exits.append(done)

    async def enter(self, manager: AbstractAsyncContextManager[T, Any]) -> T:
        """Open a context manager, such as a `Grelmicro` app, for as long as the service lives.

        Returns:
            What entering it gives.
        """
        if asyncio.current_task() is not self._home:
            return await self._enter_elsewhere(manager)
        value = await manager.__aenter__()

        def leave(error: BaseException | None) -> Awaitable[object]:
            return manager.__aexit__(type(error) if error else None, error, None)

        self._exits.append(leave)
        return value

    async def _enter_elsewhere(self, manager: AbstractAsyncContextManager[T, Any]) -> T:
        """Open it in a task of its own, which also closes it: some insist on that."""
        entered: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        over = asyncio.Event()

        async def hold() -> None:
            async with manager as value:
                entered.set_result(value)
                await over.wait()

        holder = asyncio.create_task(hold(), name="teardown")

        async def leave(_error: BaseException | None) -> None:
            over.set()
            await holder

        self._exits.append(leave)  # before: whoever is cancelled now leaves it to the end
        either: list[asyncio.Future[Any]] = [holder, entered]
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not entered.done():
            self._exits.remove(leave)
            await holder
        return entered.result()

    def at_home(self) -> None:
        """Say that this task is the one that will unwind."""
        self._home = asyncio.current_task()

    async def unwind(self, error: BaseException | None, deadline: float) -> list[BaseException]:
        """Undo everything; what failed.

        Args:
            error: Why, for context managers.
            deadline: The loop's time from when on what takes longer is cancelled, one by one.
        """
        self._deadline = min(self._deadline, deadline)
        failed: list[BaseException] = []
        while self._exits:
            leave = self._exits.pop()
            try:
                async with asyncio.timeout_at(self._when()) as self._timeout:
                    await leave(error)
            except BaseException as caught:  # the others have to be undone all the same
                failed.append(caught)
            self._timeout = None
        return failed

    def hasten(self, deadline: float) -> None:
        """Take no longer than until then."""
        self._deadline = min(self._deadline, deadline)
        if self._timeout is not None and not self._timeout.expired():
            self._timeout.reschedule(self._when())

    def _when(self) -> float:
        return max(self._deadline, asyncio.get_running_loop().time() + _LEAST)


_LEAST = 0.2
"""Seconds that everything is given to be undone in, however late it is."""
