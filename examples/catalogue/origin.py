"""The slow origin: a real SQLite file, behind a query that takes 50 ms."""

import asyncio
import sqlite3
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypedDict

PRODUCTS = 200
QUERY_SECONDS = 0.05


class Product(TypedDict):
    """One row of the catalogue."""

    id: int
    name: str
    price: float


class Origin:
    """A table of products, and a count of how often it was asked."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.calls = 0

    async def find(self, product_id: int) -> Product | None:
        """Read one product, the slow way: the query itself is quick, so the rest is waited for."""
        self.calls += 1
        row, _ = await asyncio.gather(
            asyncio.to_thread(self._read, product_id), asyncio.sleep(QUERY_SECONDS)
        )
        return row

    def _read(self, product_id: int) -> Product | None:
        connection = sqlite3.connect(self._file)
        try:
            query = "SELECT id, name, price FROM products WHERE id = ?"
            row = connection.execute(query, (product_id,)).fetchone()
        finally:
            connection.close()
        return None if row is None else Product(id=row[0], name=row[1], price=row[2])


@asynccontextmanager
async def open_origin() -> AsyncGenerator[Origin, None]:
    """Fill a fresh database in a temporary folder, and remove it afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "catalogue.db"
        await asyncio.to_thread(_fill, file)
        yield Origin(file)


def _fill(file: Path) -> None:
    connection = sqlite3.connect(file)
    try:
        with connection:
            connection.execute("CREATE TABLE products (id INTEGER PRIMARY KEY, name, price)")
            rows = [(number, f"Product {number}", number * 1.5) for number in range(PRODUCTS)]
            connection.executemany("INSERT INTO products VALUES (?, ?, ?)", rows)
    finally:
        connection.close()
