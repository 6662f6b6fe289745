"""Running a part of a clause in other processes."""

import asyncio
import multiprocessing
from collections.abc import Awaitable, Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from grelmicro.testing.conformance._subject import Subject, turn

__all__ = ["in_processes"]

Work = Callable[..., Awaitable[Any]]

_SECONDS = 20.0
"""Seconds that a process has for its part."""


async def in_processes(
    subject: Subject, kind: str, work: Work, count: int, *arguments: object
) -> list[Any]:
    """Run a coroutine function in processes of their own, each with an adapter of the same space.

    Args:
        subject: Has to be one that can be made again.
        kind: The component kind.
        work: A function of a module: it is called with the adapter, the number of the process, and
            the arguments; what it returns has to be what `pickle` takes.
        count: How many processes.
        arguments: What else it is called with.
    """
    assert subject.again is not None
    loop = asyncio.get_running_loop()
    pool = ProcessPoolExecutor(count, mp_context=multiprocessing.get_context("spawn"))
    try:
        parts = (
            loop.run_in_executor(
                pool, _part, subject.again, turn.get(), kind, work, (number, *arguments)
            )
            for number in range(count)
        )
        return await asyncio.gather(*parts)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _part(
    again: Callable[[], Subject], space: str, kind: str, work: Work, arguments: tuple[Any, ...]
) -> Any:
    turn.set(space)
    return asyncio.run(_within(again(), kind, work, arguments))


async def _within(subject: Subject, kind: str, work: Work, arguments: tuple[Any, ...]) -> Any:
    async with asyncio.timeout(_SECONDS), subject.open(kind) as adapter:
        return await work(adapter, *arguments)
