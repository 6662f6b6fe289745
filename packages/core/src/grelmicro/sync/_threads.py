"""Locks for worker threads."""

import weakref
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from grelmicro._threads import Thread, call_on, loop_of, run_on, thread_here
from grelmicro.sync._checks import check_timeout
from grelmicro.sync._holds import LockHandle
from grelmicro.sync._leasing import answers_at_once

if TYPE_CHECKING:
    from grelmicro.sync._lock import Lock

__all__ = ["Blocks", "ThreadLock"]

T = TypeVar("T")


class Blocks:
    """The open blocks of one `from_thread`: frameworks may end a block in another thread."""

    def __init__(self) -> None:
        self._threads: list[Thread] = []

    def begin(self) -> None:
        """This thread has entered one."""
        self._threads.append(thread_here())

    def end(self) -> Thread:
        """Whose block ends here: this thread's, or the only one that there is."""
        thread = thread_here()
        if thread not in self._threads:
            if len(self._threads) != 1:
                return thread
            thread = self._threads[0]
        self._threads.remove(thread)
        return thread


class _Block:
    """A block, which is over when neither its thread nor its `from_thread` is there any more."""

    def __init__(self, thread: Thread, lock: "ThreadLock") -> None:
        self._thread = thread
        self._lock = weakref.ref(lock)

    def done(self) -> bool:
        """Whether it is over."""
        return self._thread.done() and self._lock() is None


class ThreadLock:
    """A `Lock` for callers in worker threads: `with lock.from_thread: ...`.

    Each thread is a holder of its own; a `with` block may be left in another one. Every method
    makes one trip to the event loop that the backend was opened on, and waits here for what comes
    of it; a second one where somebody else has a lock in memory.

    Raises:
        BackendNotOpenError: From every method: the backend was never opened, or is closed.
        RuntimeError: From every method: this is the thread of an event loop, which would stop.
    """

    def __init__(self, lock: "Lock") -> None:
        self._lock = lock
        self._blocks = Blocks()

    def __enter__(self) -> LockHandle:
        """Wait for the lock, and hold it for the block. Raises what `async with` raises."""
        holder = thread_here()
        block = _Block(holder, self)
        hold = self._at_once(lambda: self._lock._enter_nowait(holder, block))
        if hold is None:
            hold = self._run(lambda _: self._lock._enter(holder, block))
        self._blocks.begin()
        return hold

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Give the lock back. Raises what leaving an `async with` raises."""
        holder = self._blocks.end()
        if not self._at_once(lambda: self._lock._leave_nowait(holder)):
            self._run(lambda _: self._lock._leave(holder, exc))

    def acquire(self, timeout: float | None = None) -> LockHandle:
        """Wait for the lock, for `timeout` seconds at most. Raises what `Lock.acquire` raises."""
        seconds = check_timeout(timeout)
        return self._run(lambda holder: self._lock._acquire(holder, seconds))

    def acquire_nowait(self) -> LockHandle:
        """Take the lock if it is free. Raises what `Lock.acquire_nowait` raises."""
        return self._run(self._lock._acquire_nowait)

    def extend(self) -> None:
        """Let the lock last for its lease from now. Raises what `Lock.extend` raises."""
        self._run(self._lock._extend)

    def release(self) -> None:
        """Give the lock back. Raises what `Lock.release` raises."""
        self._run(self._lock._release)

    def locked(self) -> bool:
        """Whether anybody holds the lock. Raises what `Lock.locked` raises."""
        return self._run(lambda _: self._lock.locked())

    def owned(self) -> bool:
        """Whether this thread holds the lock. Raises what `Lock.owned` raises."""
        return self._run(self._lock._owned)

    def _at_once(self, call: Callable[[], T]) -> T | None:
        """What a backend in this process answers in a moment; None for another."""
        backend = self._lock.backend
        return call_on(loop_of(backend), call) if answers_at_once(backend) else None

    def _run(self, call: Callable[[Thread], Coroutine[Any, Any, T]]) -> T:
        loop = loop_of(self._lock.backend)
        return run_on(loop, call(thread_here()))
