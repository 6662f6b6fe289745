"""Running a coroutine for a caller that has no event loop."""

import asyncio
import concurrent.futures
import threading
import weakref
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from grelmicro._process import current
from grelmicro.errors import BackendNotOpenError

__all__ = [
    "Thread",
    "call_on",
    "loop_of",
    "noted_loop",
    "on_a_loop",
    "run_here",
    "run_on",
    "task_here",
    "thread_here",
]

T = TypeVar("T")

_CLOSED = "the event loop that the backend was opened on is closed"

_LOOK_AGAIN = 1.0
"""Seconds after which a waiting thread looks whether its loop still lives."""


class Thread:
    """A thread, as long as it lives, and nobody else under the same number."""

    def __init__(self, life: object) -> None:
        self._life = weakref.ref(life)

    def done(self) -> bool:
        """Whether it has ended."""
        return self._life() is None


class _Life:
    """Something that ends with its thread, as only the thread's own variables refer to it."""


class _Last(threading.local):
    """What is known of this thread: itself, and the loop that last ran in it."""

    def __init__(self) -> None:
        self.life = _Life()
        self.thread = Thread(self.life)
        self.loop: asyncio.AbstractEventLoop | None = None


_last = _Last()

_processes: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, int] = weakref.WeakKeyDictionary()
"""In which process a loop runs: a fact that no fork changes."""


def task_here() -> "asyncio.Task[Any]":
    """The task that is running; faster than `current_task()`, which asks the system twice.

    Raises:
        RuntimeError: No task is running here.
    """
    task = asyncio.current_task(_last.loop) if _last.loop is not None else None
    if task is None:
        _last.loop = asyncio.get_running_loop()
        task = asyncio.current_task(_last.loop)
        if task is None:
            raise RuntimeError("no task is running: await this in a coroutine")
    return task


def thread_here() -> Thread:
    """What stands for the running thread."""
    return _last.thread


def noted_loop() -> asyncio.AbstractEventLoop:
    """The running loop, for a backend that is opened on it; a forked child will know whose it is.

    Raises:
        RuntimeError: No loop is running here.
    """
    loop = asyncio.get_running_loop()
    _processes[loop] = current.id
    return loop


def on_a_loop() -> bool:
    """Whether an event loop runs in this thread, so that waiting here would stop it."""
    return asyncio._get_running_loop() is not None


def loop_of(backend: Any) -> asyncio.AbstractEventLoop:
    """The loop that a backend was opened on, for a caller without one.

    Raises:
        BackendNotOpenError: It was never opened, or is closed, or was opened before a fork.
    """
    loop: asyncio.AbstractEventLoop | None = getattr(backend, "_loop", None)
    if loop is not None and _processes.get(loop, current.id) != current.id:
        raise BackendNotOpenError(
            f"{type(backend).__name__} was opened before a fork, and its event loop does not run "
            "in the child: enter the app or the backend here"
        )
    if loop is None:
        raise BackendNotOpenError(
            f"{type(backend).__name__} is not open, and a synchronous call needs the loop it "
            "was opened on: enter the app or the backend first"
        )
    return loop


def run_here(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never suspends, as those of in-process backends, on the spot.

    Raises:
        RuntimeError: It suspended.
    """
    try:
        coroutine.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    coroutine.close()
    raise RuntimeError(f"{coroutine!r} suspended, though its backend offers get_nowait")


def call_on(loop: asyncio.AbstractEventLoop, call: Callable[[], T]) -> T:
    """Call a function on the thread of `loop`, and wait in this thread for what it returns.

    Raises:
        RuntimeError: This is the thread of a running loop, and waiting would stop it.
        BackendNotOpenError: The loop ended.
    """
    _refuse_on_a_loop()
    future: concurrent.futures.Future[T] = concurrent.futures.Future()

    def answer() -> None:
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(call())
            except Exception as error:
                future.set_exception(error)

    try:
        loop.call_soon_threadsafe(answer)
    except RuntimeError:
        raise BackendNotOpenError(_CLOSED) from None
    return _result(future, loop)


def run_on(loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on `loop`, and wait in this thread for what comes of it.

    Raises:
        RuntimeError: This is the thread of a running loop, and waiting would stop it.
        BackendNotOpenError: The loop ended.
    """
    try:
        _refuse_on_a_loop()
    except RuntimeError:
        coroutine.close()
        raise
    try:
        future = asyncio.run_coroutine_threadsafe(coroutine, loop)
    except RuntimeError:
        coroutine.close()
        raise BackendNotOpenError(_CLOSED) from None
    return _result(future, loop)


def _refuse_on_a_loop() -> None:
    if on_a_loop():
        raise RuntimeError(
            "a synchronous call would block the event loop of this thread: "
            "use the async form here, or call from a worker thread (asyncio.to_thread)"
        )


def _result(future: "concurrent.futures.Future[T]", loop: asyncio.AbstractEventLoop) -> T:
    try:
        while True:
            try:
                return future.result(_LOOK_AGAIN)
            except TimeoutError:  # of the coroutine, if that is done
                if future.done():
                    return future.result()
                if loop.is_closed():
                    raise BackendNotOpenError(_CLOSED) from None
    finally:
        future.cancel()  # nothing, when it is done; else this thread was interrupted
