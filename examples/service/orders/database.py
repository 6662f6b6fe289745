"""The orders, in an SQLite file that all workers write to; and a tally of them in the log."""

import asyncio
import sqlite3
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import structlog

from grelmicro.service import context, plugin
from orders.settings import DatabaseConfig, OrdersConfig

TABLE = "CREATE TABLE IF NOT EXISTS orders (pk integer PRIMARY KEY, item text, price real)"
BUSY = 10.0
"""Seconds that a worker waits for another one that writes."""

log = structlog.get_logger("orders")


class Database:
    """A connection, in a thread of its own."""

    def __init__(self, thread: ThreadPoolExecutor, connection: sqlite3.Connection) -> None:
        self._thread = thread
        self._connection = connection

    async def fetch(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """Run a statement, in a transaction of its own."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._fetch, statement, values)

    def _fetch(self, statement: str, values: tuple[object, ...]) -> list[tuple[Any, ...]]:
        return self._connection.execute(statement, values).fetchall()


@asynccontextmanager
async def opened(path: Path) -> AsyncGenerator[Database]:
    """Open the file, and make the table if it is not there."""
    with ThreadPoolExecutor(1, "sqlite") as thread:
        connection = sqlite3.connect(path, BUSY, isolation_level=None, check_same_thread=False)
        try:
            database = Database(thread, connection)
            await database.fetch(TABLE)
            yield database
        finally:
            thread.submit(connection.close).result()


async def tally(database: Database, seconds: float, cancel: plugin.Cancel) -> None:
    """Log how many orders there are, from time to time and at the end."""
    while not cancel.is_set():
        with suppress(TimeoutError):
            await asyncio.wait_for(cancel.wait(), seconds)
        ((count, total),) = await database.fetch("SELECT count(*), total(price) FROM orders")
        log.info("tally", orders=count, total=total)


async def prepare(
    load: plugin.Loader, teardown: plugin.Teardown, cancel: plugin.Cancel
) -> AsyncIterator[Awaitable[None]]:
    """Have the database for as long as the service lives."""
    await load(".settings")
    database = await teardown.enter(opened(context.get(DatabaseConfig).path))
    context.add(database)
    yield tally(database, context.get(OrdersConfig).tally_every, cancel)
