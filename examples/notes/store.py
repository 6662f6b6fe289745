"""Where the notes are: an SQLite file, or a Postgres; each request has a connection of its own.

`sqlite:notes.db` or `postgresql://user@host/database` says which.
"""

import asyncio
import sqlite3
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any, Protocol, TypeVar

import asyncpg

T = TypeVar("T")

TABLE = "CREATE TABLE IF NOT EXISTS example_notes (pk {key} PRIMARY KEY, text text NOT NULL)"
BUSY = 10.0
"""Seconds that a transaction of SQLite waits for another one that writes."""


class Session(Protocol):
    """A connection, which one request has for itself."""

    async def fetch(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """Run a statement with `$1`, `$2` in it; the rows that it returns."""
        ...

    def transaction(self) -> AbstractAsyncContextManager[None]:
        """Commit what is done in the block, or, when it fails, nothing of it."""
        ...


class Database(Protocol):
    """Makes sessions."""

    def session(self) -> AbstractAsyncContextManager[Session]:
        """Connect, for a block."""
        ...


@asynccontextmanager
async def opened(url: str) -> AsyncGenerator[Database]:
    """Open the database that a URL names, and make the table.

    Raises:
        ValueError: The URL is for neither.
    """
    if url.startswith("sqlite:"):
        yield await SqliteDatabase.at(url.removeprefix("sqlite:"))
    elif url.startswith(("postgres:", "postgresql:")):
        async with asyncpg.create_pool(url, min_size=1) as pool:
            await pool.execute(TABLE.format(key="bigserial"))
            yield PostgresDatabase(pool)
    else:
        raise ValueError("NOTES_URL: it begins with sqlite: or postgresql:")


class SqliteDatabase:
    """A file."""

    def __init__(self, path: str) -> None:
        self._path = path

    @classmethod
    async def at(cls, path: str) -> "SqliteDatabase":
        """Make the table, if it is not there."""
        made = cls(path)
        async with made.session() as session:
            await session.fetch("PRAGMA journal_mode = wal")
            await session.fetch(TABLE.format(key="integer"))
        return made

    @asynccontextmanager
    async def session(self) -> AsyncGenerator[Session]:
        """Connect, in a thread that only this connection has."""
        with ThreadPoolExecutor(1, "sqlite") as thread:
            session = SqliteSession(thread)
            try:
                await session.connect(self._path)
                yield session
            finally:
                await session.close()


class SqliteSession:
    """A connection, and its thread.

    What was sent to the thread is done, also for a request that is cancelled meanwhile. As there is
    one thread, a rollback that follows comes after it.
    """

    def __init__(self, thread: ThreadPoolExecutor) -> None:
        self._thread = thread
        self._connection: sqlite3.Connection | None = None

    async def connect(self, path: str) -> None:
        """Open the file."""
        await self._run(self._connect, path)

    async def fetch(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """Run a statement; SQLite takes `?1` where Postgres takes `$1`."""
        return await self._run(self._fetch, statement.replace("$", "?"), values)

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[None]:
        """Begin; what only reads disturbs nobody."""
        await self.fetch("BEGIN")
        try:
            yield
        except BaseException:
            await self.fetch("ROLLBACK")
            raise
        await self.fetch("COMMIT")

    async def close(self) -> None:
        """Close the file, if it was opened."""
        await self._run(self._close)

    async def _run(self, function: Callable[..., T], *arguments: object) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, partial(function, *arguments))

    def _connect(self, path: str) -> None:
        self._connection = sqlite3.connect(path, BUSY, isolation_level=None)

    def _fetch(self, statement: str, values: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        assert self._connection is not None
        return self._connection.execute(statement, values).fetchall()

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()


class PostgresDatabase:
    """A pool of connections."""

    def __init__(self, pool: "asyncpg.Pool[Any]") -> None:
        self._pool = pool

    @asynccontextmanager
    async def session(self) -> AsyncGenerator[Session]:
        """Take one from the pool."""
        async with self._pool.acquire() as connection:
            yield PostgresSession(connection)


class PostgresSession:
    """A connection."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def fetch(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """Run a statement."""
        return [tuple(row) for row in await self._connection.fetch(statement, *values)]

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[None]:
        """Asyncpg's own."""
        async with self._connection.transaction():
            yield
