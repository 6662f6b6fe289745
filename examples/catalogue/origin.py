"""The slow origin: a real SQLite file, and a query that takes 50 ms."""

import asyncio
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Self, TypedDict

PRODUCTS = 300
QUERY_SECONDS = 0.05


class Product(TypedDict):
    """One row of the catalogue."""

    id: int
    name: str
    cents: int


class Origin:
    """A table of products in a temporary file, and a count of how often it was asked."""

    def __init__(self) -> None:
        self.calls = 0
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._file = Path()

    async def __aenter__(self) -> Self:
        """Make the file."""
        self._folder = tempfile.TemporaryDirectory(prefix="catalogue-")
        self._file = Path(self._folder.name) / "catalogue.db"
        await asyncio.to_thread(self._fill)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Remove the file."""
        if self._folder is not None:
            self._folder.cleanup()

    async def find(self, product_id: int) -> Product | None:
        """Read one product. SQLite needs far less than 50 ms for it; the rest is waited for."""
        self.calls += 1
        product, _ = await asyncio.gather(
            asyncio.to_thread(self._select, product_id), asyncio.sleep(QUERY_SECONDS)
        )
        return product

    def _select(self, product_id: int) -> Product | None:
        with closing(sqlite3.connect(self._file)) as connection:
            query = "SELECT id, name, cents FROM product WHERE id = ?"
            row = connection.execute(query, (product_id,)).fetchone()
        return None if row is None else Product(id=row[0], name=row[1], cents=row[2])

    def _fill(self) -> None:
        rows = [(number, f"Tea no. {number}", 300 + number) for number in range(1, PRODUCTS + 1)]
        with closing(sqlite3.connect(self._file)) as connection, connection:
            connection.execute("CREATE TABLE product (id INTEGER PRIMARY KEY, name, cents)")
            connection.executemany("INSERT INTO product VALUES (?, ?, ?)", rows)
