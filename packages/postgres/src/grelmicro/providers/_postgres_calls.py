"""What a provider offers of its server to adapters: statements, one at a time."""

from time import perf_counter

import asyncpg

from grelmicro.providers._postgres_door import NEVER, Door

__all__ = ["Calls"]


class Calls:
    """Statements through a provider's one door."""

    _door: Door

    async def fetch(
        self,
        query: str,
        *args: object,
        repeatable: bool = False,
        deadline: float | None = None,
        shield: bool = True,
    ) -> list[asyncpg.Record]:
        """Run one statement, and return its rows: the door of every adapter.

        A caller that is cancelled leaves at once. Its statement may be done all the same. It must
        change nothing of the session: no SET, LISTEN, advisory lock or temporary table of it.

        Args:
            query: The statement.
            args: What `$1`, `$2` and so on stand for.
            repeatable: Whether the statement may be sent again when its fate is unknown: reads may,
                writes may not.
            deadline: When it has to be over, by the loop's clock; by default `timeout` from now.
            shield: False in a task that nobody cancels, which costs less.

        Raises:
            OutOfContextError: The provider is not open, or not on this event loop.
            TimeoutError: There was no result within the provider's `timeout`.
            OutcomeUnknownError: The connection was lost before the result; the statement may have
                been done.
            OSError: The server cannot be reached.
            asyncpg.PostgresError: The server refused.
        """
        rows: list[asyncpg.Record] = await self._door.run(
            lambda connection: connection.fetch(query, *args, timeout=NEVER),
            repeatable=repeatable,
            deadline=deadline,
            shield=shield,
        )
        return rows

    async def execute(
        self,
        query: str,
        *args: object,
        repeatable: bool = False,
        deadline: float | None = None,
        shield: bool = True,
    ) -> str:
        """Run one statement, and return what the server says of it, such as `DELETE 3`.

        Without `args` there may be several statements with `;` between: one transaction.

        Args:
            query: The statement; as in `fetch`, it must change nothing of the session.
            args: What `$1`, `$2` and so on stand for.
            repeatable: As in `fetch`.
            deadline: As in `fetch`.
            shield: As in `fetch`.

        Raises:
            Exception: As in `fetch`.
        """
        status: str = await self._door.run(
            lambda connection: connection.execute(query, *args, timeout=NEVER),
            repeatable=repeatable,
            deadline=deadline,
            shield=shield,
        )
        return status

    async def ping(self) -> float:
        """Ask the server for a sign of life; seconds that one round trip took."""
        started = perf_counter()
        await self.fetch("SELECT 1", repeatable=True)
        return perf_counter() - started
