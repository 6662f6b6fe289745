"""Teardown runs to its end although its task is cancelled: the cancellation is held until then.

It runs in the task and the context in which it was set up: a provider may hold a timeout, a task
group or a token of a context variable over its `yield`, and these can be left only there. So the
task must not be cancelled from outside, while what the teardown itself arms, such as
`asyncio.timeout`, has to work. The two are told apart by the context that a cancellation comes
from: whatever is scheduled within the teardown inherits its mark.

What the teardown waits for reaches the task as a future of our own, and `Task.cancel()` asks the
future that a task waits for: this one answers that it has taken care of it.
"""

import asyncio
from collections.abc import Coroutine, Generator
from contextvars import ContextVar
from types import coroutine
from typing import Any, TypeVar

__all__ = ["shielded"]

T = TypeVar("T")

_teardown: ContextVar[object] = ContextVar("grelmicro_teardown", default=None)


@coroutine
def shielded(
    work: Coroutine[Any, Any, T], grace: float, is_cancelled: bool = False
) -> Generator[Any, Any, tuple[T, asyncio.CancelledError | None]]:
    """Run `work` to its end.

    Args:
        work: What must not be cut short.
        grace: Seconds from the first cancellation until all that `work` waits for is cancelled.
        is_cancelled: Whether there was a cancellation already, which led here.

    Returns:
        Its result, and the cancellation that was held, which is to be raised now.
    """
    token = _teardown.set(work)
    try:
        awaited = work.send(None)
        shield = _Shield(work, grace)
        if is_cancelled:
            shield.start_clock()
        try:
            result = yield from shield.drive(awaited)
        finally:
            cancelled = shield.close()
        return result, cancelled
    except StopIteration as stop:  # it waits for nothing: that is all
        return stop.value, None
    finally:
        _teardown.reset(token)


class _Shield:
    """One teardown that waits: the cancellation that it holds, and the time that it has left."""

    def __init__(self, work: Coroutine[Any, Any, Any], grace: float) -> None:
        self._work = work
        self._grace = grace
        self._expired = False
        self._wait: _Wait | None = None
        self._task: asyncio.Task[Any] | None = asyncio.current_task()
        self._before = 0
        self._held: tuple[object, ...] | None = None
        """The arguments of the first cancellation."""
        self._timer: asyncio.TimerHandle | None = None

    def drive(self, awaited: Any) -> Generator[Any, Any, Any]:
        """Do what `yield from work` does, with our own futures in the place of those it yields."""
        while True:
            error: BaseException | None = None
            try:
                yield from self._until(awaited)
            except BaseException as thrown:  # all of it is the work's own affair
                error = thrown
            try:
                awaited = self._work.send(None) if error is None else self._work.throw(error)
            except StopIteration as stop:
                return stop.value

    def close(self) -> asyncio.CancelledError | None:
        """What was held and not taken back since, as a timeout does when it is left."""
        if self._timer is not None:
            self._timer.cancel()
        if self._task is None or self._held is None or self._task.cancelling() <= self._before:
            return None
        return asyncio.CancelledError(*self._held)

    def _until(self, awaited: Any) -> Generator[Any, Any, Any]:
        if self._expired and awaited is None:
            raise asyncio.CancelledError(*self._held or ())
        self._wait = _Wait(self, awaited)
        if self._expired:
            self._wait.cancel_awaited()
        yield from self._wait

    def takes(self, arguments: tuple[object, ...]) -> bool:
        """Hold a cancellation from outside while there is time; the first starts the clock."""
        if self._expired or _teardown.get() is self._work:
            return False
        if self._held is None and self._task is not None:
            self._held = arguments
            self._before = self._task.cancelling() - 1  # it counts this one already
            self.start_clock()
        return True

    def start_clock(self) -> None:
        """From now on there is so much time, and no more."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._grace, self._expire)

    def _expire(self) -> None:
        self._expired = True
        if self._wait is not None:
            self._wait.cancel_awaited()


class _Wait(asyncio.Future[None]):
    """Stands between a task and what its teardown waits for; None: one iteration of the loop."""

    def __init__(self, shield: _Shield, awaited: Any) -> None:
        super().__init__()
        self._shield = shield
        self._awaited = awaited
        if awaited is None:
            self.get_loop().call_soon(self._wake)
        else:
            awaited._asyncio_future_blocking = False
            awaited.add_done_callback(self._wake)

    def cancel(self, msg: object = None) -> bool:
        """Be asked by `Task.cancel`."""
        arguments = () if msg is None else (msg,)
        return self._shield.takes(arguments) or self.cancel_awaited(*arguments)

    def cancel_awaited(self, *arguments: object) -> bool:
        """Do what a task does: cancel what is waited for, whose end is then our own."""
        if self._awaited is None:
            return super().cancel(*arguments)
        return bool(self._awaited.cancel(*arguments))

    def _wake(self, _done: object = None) -> None:
        if not self.done():
            self.set_result(None)
