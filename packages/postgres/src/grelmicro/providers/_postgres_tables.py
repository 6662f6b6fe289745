"""Tables that are made when they are missed."""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

import asyncpg

if TYPE_CHECKING:
    from grelmicro.providers.postgres import PostgresProvider

__all__ = ["Table"]

T = TypeVar("T")

_SCHEMA_LOCK = 0x6772656C6D6963
"""The advisory lock that replicas hold, one after the other, while they make tables."""

_FOREIGN = "a table of that name is there already, made by something else: pass table_name="


class Table:
    """A table with all that belongs to it.

    Args:
        schema: The statements that make it, each of which may find it made.
        create: Whether it is made when it is missing; else its absence is an error that says how.
    """

    def __init__(self, schema: str, *, create: bool) -> None:
        self.schema = schema
        self._create = create

    async def make(self, provider: "PostgresProvider") -> None:
        """Make it, in one transaction that replicas wait for: IF NOT EXISTS alone is a race."""
        await provider.execute(f"SELECT pg_advisory_xact_lock({_SCHEMA_LOCK});\n{self.schema}")

    async def made(self, provider: "PostgresProvider", ask: Callable[[], Awaitable[T]]) -> T:
        """Ask; make the table and ask again when it, or a function of it, is missing.

        Raises:
            asyncpg.UndefinedTableError: It is missing, and not to be made.
            asyncpg.UndefinedFunctionError: The same.
            asyncpg.UndefinedColumnError: There is one of that name that somebody else made.
        """
        try:
            return await ask()
        except asyncpg.UndefinedColumnError as error:
            error.add_note(_FOREIGN)
            raise
        except (asyncpg.UndefinedTableError, asyncpg.UndefinedFunctionError) as error:
            self._refuse_if_by_hand(error)
        await self.make(provider)
        return await ask()

    async def or_nothing(self, ask: Callable[[], Awaitable[T]], nothing: T) -> T:
        """What there is where the table is; where it is not, nothing.

        Raises:
            asyncpg.UndefinedTableError: It is missing, and not to be made.
            asyncpg.UndefinedColumnError: There is one of that name that somebody else made.
        """
        try:
            return await ask()
        except asyncpg.UndefinedColumnError as error:
            error.add_note(_FOREIGN)
            raise
        except asyncpg.UndefinedTableError as error:
            self._refuse_if_by_hand(error)
            return nothing

    def _refuse_if_by_hand(self, error: asyncpg.PostgresError) -> None:
        if not self._create:
            error.add_note("create_schema=False: run the statements of the adapter's `schema`")
            raise error
