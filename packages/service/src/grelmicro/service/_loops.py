"""A loop for one stage, left within a bounded time, whatever ignores that it should end."""

import asyncio
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

__all__ = ["run"]

T = TypeVar("T")

_PATIENCE = 1.0


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in a loop of its own.

    It does what `asyncio.run` does, but for two things: tasks that ignore their cancellation are
    left behind, and threads of the default executor are not waited for.
    """
    loop = asyncio.new_event_loop()
    executor = ThreadPoolExecutor(thread_name_prefix="service")
    loop.set_default_executor(executor)
    asyncio.set_event_loop(loop)
    task = loop.create_task(main, name="stage")
    try:
        return loop.run_until_complete(task)
    finally:
        try:
            loop.run_until_complete(_end(task))
        finally:
            executor.shutdown(wait=False, cancel_futures=True)
            asyncio.set_event_loop(None)
            loop.close()


async def _end(main: asyncio.Task[Any]) -> None:
    """Cancel what is left; the stage itself, if something else ended the loop, may take longer."""
    if not main.done():
        main.cancel()
        await asyncio.wait({main})
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    if left:
        await asyncio.wait(left, timeout=_PATIENCE)
    try:
        async with asyncio.timeout(_PATIENCE):
            await asyncio.get_running_loop().shutdown_asyncgens()
    except TimeoutError:
        return
