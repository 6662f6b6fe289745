"""What the tests of the Postgres backend share."""

import asyncio
import os
import time
from collections.abc import AsyncGenerator, Callable
from typing import Any

import asyncpg
import pytest

from grelmicro.cache.postgres import PostgresCacheAdapter
from grelmicro.providers.postgres import PostgresProvider

Until = Callable[[Callable[[], object], str], Any]


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable of ours, and none of those that the driver reads by itself."""
    for name in [*os.environ]:
        if name.upper().startswith(("POSTGRES", "GRELMICRO_U", "PG")):
            monkeypatch.delenv(name)


@pytest.fixture
async def other(postgres_url: str) -> AsyncGenerator[Any]:
    """A connection to the session's server, which is not ours."""
    connection = await asyncpg.connect(postgres_url)
    yield connection
    await connection.close()


@pytest.fixture
async def provider(postgres_url: str, postgres_schema: str) -> AsyncGenerator[PostgresProvider]:
    """An open provider; closed before the schema is dropped, which would wait for it."""
    async with PostgresProvider(postgres_url) as provider:
        yield provider


@pytest.fixture
async def adapter(provider: PostgresProvider, postgres_schema: str) -> PostgresCacheAdapter:
    """An adapter with a table of this test's own; never entered, as its provider is open."""
    return provider.cache(table_name=f"{postgres_schema}.cache")


@pytest.fixture
def until() -> Until:
    """Wait on the running loop for something to become true; fail if it does not in 20 seconds."""

    async def wait(true: Callable[[], object], what: str) -> None:
        deadline = time.monotonic() + 20
        while not true():
            assert time.monotonic() < deadline, f"not in time: {what}"
            await asyncio.sleep(0.005)

    return wait
