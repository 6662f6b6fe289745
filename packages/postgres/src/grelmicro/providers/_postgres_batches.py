"""Questions of many callers that travel together."""

import asyncio
import copy
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from grelmicro._process import current
from grelmicro.errors import OutOfContextError

__all__ = ["Batches"]

Q = TypeVar("Q")
A = TypeVar("A")


class Batches(Generic[Q, A]):
    """Asks together what is asked in one iteration of the event loop, or while others wait.

    A caller that is cancelled leaves at once; what it asked is done all the same.

    Args:
        work: Answers questions in their order; its second argument is the time, by the loop's
            clock, at which the first of them was asked.
        weigh: What a question weighs.
        most: How many questions travel together at most.
        heaviest: What these weigh at most, unless one alone weighs more.
        lanes: How many batches are under way at most; what is asked meanwhile waits.
    """

    def __init__(
        self,
        work: Callable[[Sequence[Q], float], Awaitable[Sequence[A]]],
        *,
        weigh: Callable[[Q], int] = lambda _: 1,
        most: int = 500,
        heaviest: int = 1 << 20,
        lanes: int = 2,
    ) -> None:
        self._work = work
        self._weigh = weigh
        self._most = most
        self._heaviest = heaviest
        self._lanes = lanes
        self._loop: asyncio.AbstractEventLoop | None = None
        self._process = current.id
        self._begin()

    def _begin(self) -> None:
        self._waiting: deque[tuple[Q, asyncio.Future[A], float]] = deque()
        self._tasks: set[asyncio.Task[None]] = set()

    def _move_to(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin anew on a loop; what waited on one that is closed, that one took with it.

        In a forked child, what waited is the parent's.
        """
        is_busy = (self._tasks or self._waiting) and self._process == current.id
        if is_busy and self._loop is not None and not self._loop.is_closed():
            raise OutOfContextError("the adapter is in use on another event loop")
        self._loop, self._process = loop, current.id
        self._begin()

    async def ask(self, question: Q) -> A:
        """Ask, and wait for the answer.

        Raises:
            OutOfContextError: Others wait on another event loop.
            Exception: What `work` raised, to everybody who asked with it; each gets a copy.
        """
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._move_to(loop)
        if not self._waiting and len(self._tasks) < self._lanes:
            loop.call_soon(self._send)
        future: asyncio.Future[A] = loop.create_future()
        self._waiting.append((question, future, loop.time()))
        return await future

    def _send(self) -> None:
        while self._waiting and len(self._tasks) < self._lanes:
            assert self._loop is not None
            task = self._loop.create_task(self._answer(self._next()))
            self._tasks.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._send()

    def _next(self) -> list[tuple[Q, asyncio.Future[A], float]]:
        batch = [self._waiting.popleft()]
        weight = self._weigh(batch[0][0])
        while self._waiting and len(batch) < self._most:
            weight += self._weigh(self._waiting[0][0])
            if weight > self._heaviest:
                break
            batch.append(self._waiting.popleft())
        return batch

    async def _answer(self, batch: Sequence[tuple[Q, asyncio.Future[A], float]]) -> None:
        try:
            answers = await self._work([question for question, _, _ in batch], batch[0][2])
        except Exception as error:
            for _, future, _ in batch:
                if not future.done():
                    future.set_exception(_copy_of(error))
        except asyncio.CancelledError:  # the loop ends
            for _, future, _ in batch:
                future.cancel()
            raise
        else:
            for (_, future, _), answer in zip(batch, answers, strict=True):
                if not future.done():
                    future.set_result(answer)


def _copy_of(error: Exception) -> Exception:
    """An equal error for one caller alone, who may add notes and a traceback to it."""
    try:
        copied = copy.copy(error)
    except Exception:  # a class with a constructor of its own
        return error
    copied.__cause__, copied.__context__ = error.__cause__, error.__context__
    copied.__suppress_context__ = error.__suppress_context__
    if notes := getattr(error, "__notes__", None):
        copied.__notes__ = [*notes]
    return copied.with_traceback(error.__traceback__)
