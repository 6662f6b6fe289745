"""Removing old rows now and then, by those who write new ones."""

import asyncio
import logging
import random
from typing import TYPE_CHECKING

from grelmicro.errors import OutOfContextError

if TYPE_CHECKING:
    from grelmicro.providers.postgres import PostgresProvider

__all__ = ["Sweeps"]

_SECONDS = 60.0
"""The time between two sweeps, give or take a half."""

_ROUNDS = 100
"""Statements of one sweep at most."""


class Sweeps:
    """Sweeps in the background, about once a minute, while somebody writes.

    Args:
        statement: Removes some rows.
        swept_all: What the server says of it when it may have left some.
        logger: Where a failure is told; it has no other consequence.
    """

    def __init__(self, statement: str, swept_all: str, logger: logging.Logger) -> None:
        self._statement = statement
        self._swept_all = swept_all
        self._logger = logger
        self._next: float | None = None
        self._task: asyncio.Task[None] | None = None

    def written(self, provider: "PostgresProvider") -> None:
        """Begin a sweep if it is time, though not with the first write."""
        now = asyncio.get_running_loop().time()
        if self._next is not None and now < self._next:
            return
        is_first = self._next is None
        self._next = now + _SECONDS * random.uniform(0.5, 1.5)  # noqa: S311  # no secret
        if not is_first:
            self._task = asyncio.create_task(self._sweep(provider))

    async def stop(self) -> None:
        """End one that is under way on this loop."""
        if self._task is not None and self._task.get_loop() is asyncio.get_running_loop():
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _sweep(self, provider: "PostgresProvider") -> None:
        """Remove rows as long as there are many."""
        try:
            for _ in range(_ROUNDS):
                status = await provider.execute(self._statement)
                if status != self._swept_all:
                    break
        except OutOfContextError:  # closed meanwhile
            pass
        except Exception as error:
            self._logger.warning("old rows stay: %s: %s", type(error).__name__, error)
