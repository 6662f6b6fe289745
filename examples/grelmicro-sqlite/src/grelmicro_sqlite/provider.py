"""The provider: one file, one connection of this process to it."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from time import perf_counter
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar
from urllib.parse import quote, unquote, urlsplit

import aiosqlite

from grelmicro.errors import OutOfContextError
from grelmicro.providers import Provider, ProviderAdapter
from grelmicro_sqlite.schema import SCHEMA, TICK, wall

if TYPE_CHECKING:  # each kind's module imports this one
    from grelmicro_sqlite.breaker import SQLiteCircuitBreakerAdapter
    from grelmicro_sqlite.cache import SQLiteCacheAdapter
    from grelmicro_sqlite.ratelimiter import SQLiteRateLimiterAdapter
    from grelmicro_sqlite.sync import SQLiteSyncAdapter

__all__ = ["Rows", "SQLiteAdapter", "SQLiteProvider", "Transaction"]

T = TypeVar("T")
Rows = list[tuple[Any, ...]]

_SWEPT = 100
"""Rows that a transaction removes at most, of those that have expired."""


@dataclass(frozen=True)
class Transaction:
    """What a transaction that writes is made of."""

    connection: aiosqlite.Connection
    now: int
    """The time of the file's clock, in microseconds."""

    async def run(self, query: str, **values: object) -> Rows:
        """Run a statement, for which `:now` stands; its rows."""
        return await _rows(self.connection, query, {"now": self.now, **values})

    async def sweep(self, table: str, before: int) -> None:
        """Remove some rows of a table that expired before a time."""
        expired = f"SELECT rowid FROM {table} WHERE expires_at <= :before LIMIT {_SWEPT}"
        await self.run(f"DELETE FROM {table} WHERE rowid IN ({expired})", before=before)


class SQLiteProvider(Provider):
    """One SQLite file, for any number of processes of one host; not for a network file system.

    Every operation is one transaction. A transaction runs to its end once it is begun, also when
    the caller is cancelled: cancelled calls may have been done, or not.

    Args:
        url: `sqlite:///relative/path` or `sqlite:////absolute/path`, with `%20` and the like.
        timeout: Seconds to wait for this process's other operations, and again for other processes.

    Raises:
        ValueError: `url` is none of these, or `timeout` is no positive number of seconds.
    """

    short_name = "sqlite"

    def __init__(self, url: str, *, timeout: float = 5.0) -> None:
        self._path = _path_of(url)
        if not 0 < timeout < 3600:
            raise ValueError("timeout: expected seconds above 0, below an hour")
        self._timeout = timeout
        self._connection: aiosqlite.Connection | None = None
        self._entered = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._turn = asyncio.Lock()
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def url(self) -> str:
        """Where the file is; it has no password."""
        return f"sqlite:///{quote(self._path)}"

    @property
    def client(self) -> aiosqlite.Connection:
        """The connection, while it is open; transactions take turns on it.

        Raises:
            OutOfContextError: It is closed.
        """
        if self._connection is None:
            raise OutOfContextError(f"{self!r} is not open: use it in `async with`")
        return self._connection

    async def __aenter__(self) -> Self:
        """Open the file, and make what tables are missing.

        Raises:
            OutOfContextError: It is open on another event loop.
        """
        self._move_to(asyncio.get_running_loop())
        self._entered += 1
        try:
            await self._whole(self._open())
        except BaseException:
            await self._leave()
            raise
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Let transactions end, and close the file."""
        await self._leave()

    @classmethod
    def ddl(cls) -> str:
        """The tables, which opening makes where they are missing."""
        return SCHEMA.lstrip()

    async def ping(self) -> float:
        """Read the file's clock; the seconds that it took."""
        started = perf_counter()
        await self.read("SELECT last FROM clock")
        return perf_counter() - started

    async def read(self, query: str, **values: object) -> Rows:
        """Run one statement that only reads, for which `:wall` stands; its rows."""
        return await self._whole(self._read(query, {"wall": wall(), **values}))

    async def write(self, query: str, **values: object) -> Rows:
        """Run one statement in a transaction, for which `:now` stands; its rows."""
        return await self.transact(lambda transaction: transaction.run(query, **values))

    async def transact(self, work: Callable[[Transaction], Awaitable[T]]) -> T:
        """Do some work in a transaction: all of it or, if it raises, nothing."""
        return await self._whole(self._transact(work))

    def cache(self, **kwargs: Any) -> "SQLiteCacheAdapter":
        """Make a cache; see `SQLiteCacheAdapter` for the keywords."""
        from grelmicro_sqlite.cache import SQLiteCacheAdapter

        return SQLiteCacheAdapter(self, **kwargs)

    def sync(self, **kwargs: Any) -> "SQLiteSyncAdapter":
        """Make locks; see `SQLiteSyncAdapter` for the keywords."""
        from grelmicro_sqlite.sync import SQLiteSyncAdapter

        return SQLiteSyncAdapter(self, **kwargs)

    def ratelimiter(self, **kwargs: Any) -> "SQLiteRateLimiterAdapter":
        """Make rate limits; see `SQLiteRateLimiterAdapter` for the keywords."""
        from grelmicro_sqlite.ratelimiter import SQLiteRateLimiterAdapter

        return SQLiteRateLimiterAdapter(self, **kwargs)

    def breaker(self, **kwargs: Any) -> "SQLiteCircuitBreakerAdapter":
        """Make circuit breakers; see `SQLiteCircuitBreakerAdapter` for the keywords."""
        from grelmicro_sqlite.breaker import SQLiteCircuitBreakerAdapter

        return SQLiteCircuitBreakerAdapter(self, **kwargs)

    async def _whole(self, work: Coroutine[Any, Any, T]) -> T:
        """Do what does not end half-way when the caller is cancelled."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)

    def _move_to(self, loop: asyncio.AbstractEventLoop) -> None:
        if loop is self._loop:
            return
        if self._entered:
            raise OutOfContextError(f"{self!r} is open on another event loop")
        self._loop, self._turn = loop, asyncio.Lock()

    async def _leave(self) -> None:
        self._entered -= 1
        if not self._entered:
            await self._whole(self._close())

    async def _open(self) -> None:
        async with self._turn:
            if self._connection is None:
                self._connection = await self._connected()

    async def _close(self) -> None:
        if others := self._tasks - {asyncio.current_task()}:
            await asyncio.wait(others)
        async with self._turn:
            connection = self._connection
            if connection is not None and not self._entered:  # nobody has opened it meanwhile
                self._connection = None
                await connection.close()

    @asynccontextmanager
    async def _alone(self) -> AsyncGenerator[aiosqlite.Connection]:
        """The connection, when it is free."""
        async with asyncio.timeout(self._timeout):
            await self._turn.acquire()
        try:
            yield self.client
        finally:
            self._turn.release()

    async def _connected(self) -> aiosqlite.Connection:
        connection = await aiosqlite.connect(
            self._path, timeout=self._timeout, isolation_level=None
        )
        try:
            await self._to_wal(connection)
            await connection.execute_fetchall("PRAGMA synchronous = NORMAL")
            await connection.executescript(f"BEGIN IMMEDIATE; {SCHEMA} COMMIT;")
        except BaseException:
            await connection.close()
            raise
        return connection

    async def _to_wal(self, connection: aiosqlite.Connection) -> None:
        """Have a write-ahead log; SQLite itself does not wait for others who change to it."""
        deadline = asyncio.get_running_loop().time() + self._timeout
        while True:
            try:
                await connection.execute_fetchall("PRAGMA journal_mode = WAL")
            except aiosqlite.OperationalError:
                if asyncio.get_running_loop().time() > deadline:
                    raise
                await asyncio.sleep(0.01)
            else:
                return

    async def _read(self, query: str, values: dict[str, object]) -> Rows:
        async with self._alone() as connection:
            return await _rows(connection, query, values)

    async def _transact(self, work: Callable[[Transaction], Awaitable[T]]) -> T:
        async with self._alone() as connection:
            try:
                await _rows(connection, "BEGIN IMMEDIATE", {})
                now = (await _rows(connection, TICK, {"wall": wall()}))[0][0]
                done = await work(Transaction(connection, now))
                await connection.commit()
            except BaseException:
                await connection.rollback()
                raise
            return done


class SQLiteAdapter(ProviderAdapter[SQLiteProvider]):
    """What the adapters of all kinds have in common.

    Args:
        provider: The provider to borrow.
        prefix: What tells this adapter's rows from those of others, taken literally.
    """

    def __init__(self, provider: SQLiteProvider, *, prefix: str = "") -> None:
        if not isinstance(prefix, str):
            raise TypeError(f"prefix: expected a text, not {type(prefix).__name__}")
        super().__init__(provider=provider, make=lambda: provider)
        self._prefix = prefix


async def _rows(connection: aiosqlite.Connection, query: str, values: dict[str, object]) -> Rows:
    return [tuple(row) for row in await connection.execute_fetchall(query, values)]


def _path_of(url: str) -> str:
    parts = urlsplit(url)
    path = unquote(parts.path[1:])
    if parts.scheme.lower() != "sqlite" or parts.netloc or parts.query or not path:
        raise ValueError("url: expected sqlite:///path or sqlite:////absolute/path of a file")
    return path
