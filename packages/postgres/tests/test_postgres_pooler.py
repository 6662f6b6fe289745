"""Behind a pooler whose sessions change with every transaction, as PgBouncer's may."""

import asyncio
import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Self

import asyncpg
import pytest

from grelmicro.cache import JsonSerializer, TTLCache
from grelmicro.providers.postgres import PostgresProvider
from grelmicro.testing.servers import PostgresServer
from grelmicro.testing.servers._ports import free_port
from grelmicro.testing.servers._sql import accepts

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]

SSL_REQUEST, CANCEL_REQUEST = 80877103, 80877102


async def message(reader: asyncio.StreamReader) -> bytes:
    kind = await reader.readexactly(1)
    size = await reader.readexactly(4)
    return kind + size + await reader.readexactly(int.from_bytes(size) - 4)


class Pooler:
    """Gives each transaction the session that has been idle for longest: never the last one."""

    def __init__(self, host: str, port: int, *, sessions: int = 3) -> None:
        self._target = (host, port)
        self._sessions = sessions
        self._idle: asyncio.Queue[Stream] = asyncio.Queue()
        self._all: list[Stream] = []
        self._clients: set[asyncio.Task[None]] = set()
        self._greeting = b""
        self.port = free_port()
        self.transactions = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._welcome, "127.0.0.1", self.port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._clients:
            task.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)
        for session in self._all:
            session[1].close()

    def _welcome(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._clients.add(task)
        task.add_done_callback(self._clients.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            try:
                if await self._greeted(reader, writer):
                    while True:
                        await self._transaction(reader, writer)
            finally:
                writer.close()

    async def _greeted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        while True:
            size = await reader.readexactly(4)
            body = await reader.readexactly(int.from_bytes(size) - 4)
            code = int.from_bytes(body[:4])
            if code == CANCEL_REQUEST:
                return False
            if code != SSL_REQUEST:
                break
            writer.write(b"N")
        while len(self._all) < self._sessions:
            self._greeting = await self._connect(size + body)
        writer.write(self._greeting)
        return True

    async def _connect(self, startup: bytes) -> bytes:
        stream = await asyncio.open_connection(*self._target)
        self._all.append(stream)
        stream[1].write(startup)
        greeting = b""
        while not greeting.endswith(b"Z\0\0\0\5I"):
            greeting += await message(stream[0])
        self._idle.put_nowait(stream)
        return greeting

    async def _transaction(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        first = await message(reader)
        if first[:1] == b"X":
            raise ConnectionError
        self.transactions += 1
        session = await self._idle.get()
        session[1].write(first)
        requests = asyncio.create_task(self._pump(reader, session[1]))
        try:
            while (answer := await message(session[0])) != b"Z\0\0\0\5I":
                writer.write(answer)
        finally:
            requests.cancel()
            await asyncio.wait([requests])
        self._idle.put_nowait(session)
        writer.write(answer)

    async def _pump(self, reader: asyncio.StreamReader, session: asyncio.StreamWriter) -> None:
        while True:
            session.write(await reader.read(65_536) or b"")
            await asyncio.sleep(0)


@pytest.fixture
async def pooler(postgres_server: PostgresServer) -> AsyncGenerator[Pooler]:
    async with Pooler(postgres_server.host, postgres_server.port) as pooler:
        yield pooler


def url_at(url: str, port: int) -> str:
    return f"postgresql://postgres@127.0.0.1:{port}/{url.rpartition('/')[2]}"


async def test_it_is_a_pooler_that_breaks_prepared_statements(
    pooler: Pooler, postgres_url: str
) -> None:
    async with PostgresProvider(url_at(postgres_url, pooler.port), max_connections=1) as provider:
        asked = [await provider.fetch("SELECT 1")]
        with pytest.raises(asyncpg.InvalidSQLStatementNameError):
            asked.append(await provider.fetch("SELECT 1"))


async def use(url: str, table: str) -> None:
    async with PostgresProvider(url, max_connections=4, statement_cache_size=0) as provider:
        pids = {(await provider.fetch("SELECT pg_backend_pid()"))[0][0] for _ in range(10)}
        adapter = provider.cache(table_name=table)
        cache: TTLCache[int] = TTLCache(backend=adapter, serializer=JsonSerializer())
        for turn in range(3):
            values = {f"k{number}": number + turn for number in range(40)}
            await asyncio.gather(*(cache.set(key, value) for key, value in values.items()))
            found = await asyncio.gather(*(cache.get(key) for key in values))
            assert found == [*values.values()]
            assert await cache.get_many(values) == values
            assert await cache.touch("k1")
            await cache.delete_many(["k2", "k3"])
            await asyncio.gather(cache.delete("k4"), cache.get("k5"), provider.ping())
            await adapter._sweeper.sweep(provider)
            await cache.clear()
            assert await cache.get_many(values) == {}
        assert pids


async def test_everything_works_without_prepared_statements(
    pooler: Pooler, postgres_url: str, postgres_schema: str
) -> None:
    url = url_at(postgres_url, pooler.port)
    await asyncio.gather(*(use(url, f"{postgres_schema}.t{number}") for number in range(2)))
    assert pooler.transactions > 50


@pytest.fixture
def bouncer(postgres_server: PostgresServer, tmp_path: Path) -> Iterator[int]:
    """The port of a real PgBouncer in transaction mode."""
    program = shutil.which("pgbouncer", path="/usr/local/sbin:/usr/sbin:/usr/local/bin:/usr/bin")
    if program is None:
        pytest.skip("no pgbouncer on this machine; the pooler above is stricter")
    port = free_port()
    (tmp_path / "ini").write_text(
        f"[databases]\n* = host={postgres_server.host} port={postgres_server.port} user=postgres\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
        "auth_type = any\nadmin_users = postgres\npool_mode = transaction\n"
        "default_pool_size = 2\n"
        "[users]\n"
    )
    with (tmp_path / "log").open("wb") as log, (tmp_path / "ini").open() as settings:
        child = subprocess.Popen(
            [program, "/dev/stdin"],  # a file that another user can read
            stdin=settings,
            stderr=log,
            user="nobody" if os.geteuid() == 0 else None,
        )
    deadline = time.monotonic() + 20
    try:
        while not accepts("127.0.0.1", port, "postgres"):
            assert child.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < deadline, (tmp_path / "log").read_text()
            time.sleep(0.02)
        yield port
    finally:
        child.kill()
        child.wait()


async def test_everything_works_behind_pgbouncer(
    bouncer: int, postgres_url: str, postgres_schema: str
) -> None:
    url = url_at(postgres_url, bouncer)
    await asyncio.gather(*(use(url, f"{postgres_schema}.t{number}") for number in range(2)))
