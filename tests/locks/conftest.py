"""Locks over a real server of each kind, and what other eyes see there."""

import asyncio
import os
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from inspect import isawaitable
from time import monotonic
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest
from redis.asyncio import Redis

from grelmicro.providers.postgres import PostgresProvider
from grelmicro.providers.redis import RedisProvider
from grelmicro.testing.proxy import FaultProxy

KINDS = ["redis", "postgres"]

Until = Callable[..., Awaitable[None]]


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*os.environ]:
        if name.upper().startswith(("REDIS", "POSTGRES", "PG", "GRELMICRO_U")):
            monkeypatch.delenv(name)


class Fleet:
    """Everybody whose locks are in one place of one server."""

    def __init__(self, kind: str, url: str, space: str, server: Any) -> None:
        self.kind = kind
        self.url = url
        self.space = space
        self.server = server

    @asynccontextmanager
    async def replica(self, url: str | None = None, **options: Any) -> AsyncGenerator[Any]:
        """One member: an open adapter over a provider of its own."""
        make = RedisProvider if self.kind == "redis" else PostgresProvider
        async with make(url or self.url, **options) as provider, self.adapter(provider) as it:
            yield it

    def adapter(self, provider: Any) -> Any:
        if self.kind == "redis":
            return provider.sync(prefix=self.space)
        return provider.sync(table_name=f"{self.space}.locks")

    def proxy(self) -> FaultProxy:
        """For `async with`: a proxy in front of the server."""
        parts = urlsplit(self.url)
        assert parts.hostname is not None
        assert parts.port is not None
        return FaultProxy(parts.hostname, parts.port)

    # What another client sees and does.

    async def holder(self, name: str) -> str | None:
        """Whose the lease is, as its token says."""
        if self.kind == "redis":
            held = await self._redis("GET", f"{self.space}lock:{name}")
            return None if held is None else held.decode().partition(" ")[2]
        rows = await self._postgres(
            f"SELECT token FROM {self.space}.locks WHERE name = $1 AND expires_at > now()",
            f"lock:{name}",
        )
        return rows[0][0] if rows else None

    async def queue(self, name: str) -> list[Any]:
        """The processes that stand in line."""
        if self.kind == "redis":
            found: list[Any] = await self._redis(
                "ZRANGE", f"{self.space}queue:lock:{name}", 0, -1
            )
            return found
        rows = await self._postgres(
            f"SELECT waiting FROM {self.space}.locks WHERE name = $1", f"lock:{name}"
        )
        return [*rows[0][0]] if rows else []

    async def delete(self, name: str) -> None:
        """Remove one lease, as somebody does who tidies up."""
        if self.kind == "redis":
            await self._redis("DEL", f"{self.space}{name}")
        else:
            await self._postgres(f"DELETE FROM {self.space}.locks WHERE name = $1", name)

    async def forget_everything(self) -> None:
        """FLUSHALL, or TRUNCATE: for a server of the test's own."""
        if self.kind == "redis":
            await self._redis("FLUSHALL")
        else:
            await self._postgres(f"TRUNCATE {self.space}.locks")

    async def cut_off(self) -> None:
        """End all connections at the server's side."""
        if self.kind == "redis":
            await self._redis("CLIENT", "KILL", "TYPE", "NORMAL", "SKIPME", "YES")
            await self._redis("CLIENT", "KILL", "TYPE", "PUBSUB")
        else:
            await self._postgres(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
            )

    async def _redis(self, *command: Any) -> Any:
        async with Redis.from_url(self.url) as client:
            return await client.execute_command(*command)

    async def _postgres(self, query: str, *args: Any) -> list[Any]:
        connection = await asyncpg.connect(self.url)
        try:
            return await connection.fetch(query, *args)
        finally:
            await connection.close()


@pytest.fixture(params=KINDS)
def fleet(request: pytest.FixtureRequest) -> Fleet:
    """On the session's server, in a place of this test's own."""
    kind = request.param
    space = "redis_prefix" if kind == "redis" else "postgres_schema"
    server = request.getfixturevalue(f"{kind}_server")
    return Fleet(kind, server.url, request.getfixturevalue(space), server)


@pytest.fixture(params=KINDS)
def own_fleet(request: pytest.FixtureRequest) -> Fleet:
    """On a server of this test's own."""
    kind = request.param
    server = request.getfixturevalue(f"own_{kind}")
    return Fleet(kind, server.url, "mine:" if kind == "redis" else "public", server)


async def soon(true: Callable[[], Any], what: str, seconds: float = 20) -> None:
    """Wait until something is true, which may be a coroutine's result; fail if it never is."""
    deadline = monotonic() + seconds
    while True:
        answer = true()
        if await answer if isawaitable(answer) else answer:
            return
        assert monotonic() < deadline, f"not in time: {what}"
        await asyncio.sleep(0.005)


@pytest.fixture
def until() -> Until:
    """Waits on the running loop for something to become true."""
    return soon
