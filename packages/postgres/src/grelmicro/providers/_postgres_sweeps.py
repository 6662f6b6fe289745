"""Rows that are over, removed by those who write."""

import asyncio
import logging
import random
from typing import TYPE_CHECKING

from grelmicro.errors import OutOfContextError

if TYPE_CHECKING:
    from grelmicro.providers.postgres import PostgresProvider

__all__ = ["SWEEP_ROWS", "Sweeper"]

SWEEP_ROWS = 1000
"""Rows that one statement of a sweep removes at most."""

_MORE = f"DELETE {SWEEP_ROWS}"
"""What the server says of a statement that may have left some."""

_ROUNDS = 100
"""Statements of one sweep at most."""

_log = logging.getLogger("grelmicro.postgres")


class Sweeper:
    """Runs a statement in the background from time to time, as long as it finds much to remove.

    Args:
        statement: Deletes at most `SWEEP_ROWS` rows, and waits for nobody.
        seconds: The time between two sweeps, give or take a half.
    """

    def __init__(self, statement: str, *, seconds: float = 60.0) -> None:
        self._statement = statement
        self._seconds = seconds
        self._next: float | None = None
        self._task: asyncio.Task[None] | None = None

    def if_due(self, provider: "PostgresProvider") -> None:
        """Sweep if it is time; who asks first only sets the time."""
        now = asyncio.get_running_loop().time()
        if self._next is not None and now < self._next:
            return
        is_first, self._next = self._next is None, now + self._pause()
        if not is_first:
            self._task = asyncio.create_task(self.sweep(provider))

    def _pause(self) -> float:
        return self._seconds * random.uniform(0.5, 1.5)  # noqa: S311  # no secret

    async def sweep(self, provider: "PostgresProvider") -> None:
        """Remove what is over; a failure is only logged."""
        try:
            for _ in range(_ROUNDS):
                if await provider.execute(self._statement) != _MORE:
                    break
        except OutOfContextError:  # closed meanwhile
            pass
        except Exception as error:
            _log.warning("rows that are over stay: %s: %s", type(error).__name__, error)

    async def stop(self) -> None:
        """Sweep no more, if it runs on this loop."""
        if self._task is not None and self._task.get_loop() is asyncio.get_running_loop():
            self._task.cancel()
            await asyncio.wait([self._task])
