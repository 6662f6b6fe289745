"""Tasks that are started again when they fail."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from grelmicro.service import context
from grelmicro.service._lifecycle import Cancel

__all__ = ["task"]

T = TypeVar("T")

_FIRST, _LONGEST = 0.1, 30.0
_log = logging.getLogger("grelmicro.service")


async def task(
    function: Callable[..., Awaitable[T]], /, *args: Any, restart: bool | int = True, **kwargs: Any
) -> T:
    """Run a task again when it raises; to be yielded by a plugin.

    The pause before each start is twice the one before, from 0.1 to 30 seconds, less a random half;
    a run of a minute or more begins anew. Every failure is logged. Once the service stops, it is
    not started again.

    Args:
        function: What is called, and awaited, each time.
        args: What it is called with.
        kwargs: What it is called with, too.
        restart: How many times in a row; True: for ever, False: never.

    Raises:
        Exception: What the last run has raised.
    """
    most = {True: float("inf"), False: 0}[restart] if isinstance(restart, bool) else restart
    cancel = context.get(Cancel)
    loop = asyncio.get_running_loop()
    failures = 0
    while True:
        started = loop.time()
        try:
            return await function(*args, **kwargs)
        except Exception:
            failures = 1 if loop.time() - started >= 2 * _LONGEST else failures + 1
            if failures > most or asyncio.Event.is_set(cancel):
                raise
            pause = min(_LONGEST, _FIRST * 2 ** (failures - 1))
            pause *= random.uniform(0.5, 1)  # noqa: S311  # it is no secret
            _log.exception("a task failed: it is started again in %.1f seconds", pause)
        await asyncio.sleep(pause)
