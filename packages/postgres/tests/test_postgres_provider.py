"""The provider on a real server: its life, its client, and who may use it where."""

import asyncio
import multiprocessing
import threading
from typing import Any

import asyncpg
import pytest

from grelmicro import Grelmicro
from grelmicro.cache import Cache, JsonSerializer, TTLCache
from grelmicro.cache.postgres import PostgresCacheAdapter
from grelmicro.errors import OutOfContextError
from grelmicro.providers.postgres import PostgresProvider


async def test_the_client_is_the_pool_while_it_is_open(postgres_url: str) -> None:
    provider = PostgresProvider(postgres_url, max_connections=3)
    for _ in range(2):
        with pytest.raises(OutOfContextError, match="not open"):
            _ = provider.client
        with pytest.raises(OutOfContextError, match="not open"):
            await provider.fetch("SELECT 1")
        async with provider as entered:
            assert entered is provider
            assert isinstance(provider.client, asyncpg.Pool)
            assert provider.client.get_max_size() == 3
            assert await provider.client.fetchval("SELECT 1") == 1
            assert 0 < await provider.ping() < 20


async def test_opening_needs_no_server() -> None:
    async with PostgresProvider("postgresql://u@127.0.0.1:1/d") as provider:
        with pytest.raises(OSError, match=r"127\.0\.0\.1"):
            await provider.fetch("SELECT 1")


async def test_a_login_that_is_refused_is_an_error_at_once(postgres_url: str) -> None:
    url = postgres_url.rpartition("/")[0] + "/no-such-database"
    async with PostgresProvider(url) as provider:
        with pytest.raises(asyncpg.InvalidCatalogNameError):
            await provider.ping()


async def test_entered_twice_it_is_closed_by_the_last(postgres_url: str) -> None:
    provider = PostgresProvider(postgres_url)
    async with provider:
        async with provider:
            pass
        assert await provider.fetch("SELECT 1")
    with pytest.raises(OutOfContextError):
        await provider.ping()


@pytest.mark.parametrize("own", [True, False])
async def test_a_borrowed_pool_is_closed_only_by_its_owner(own: bool, postgres_url: str) -> None:
    async with asyncpg.create_pool(postgres_url, min_size=0) as pool:
        provider = PostgresProvider.from_client(pool, own=own)
        assert provider.client is pool
        assert (provider.url, provider.env_prefix) == ("", "")
        async with provider:
            assert (await provider.fetch("SELECT $1::int", 7))[0][0] == 7
        assert pool.is_closing() is own


async def test_from_client_does_no_io() -> None:
    pool = asyncpg.create_pool("postgresql://u@192.0.2.1/d", min_size=5)  # nobody's address
    assert PostgresProvider.from_client(pool).client is pool


async def test_what_the_user_leaves_in_a_session_is_reset_and_ours_leaves_nothing(
    postgres_url: str,
) -> None:
    async with PostgresProvider(postgres_url, max_connections=1) as provider:
        await provider.client.execute("SET search_path TO elsewhere")
        assert (await provider.fetch("SHOW search_path"))[0][0] != "elsewhere"
        with pytest.raises(asyncpg.UndefinedTableError):
            await provider.fetch("SELECT * FROM no_such_table")
        await provider.client.execute("SET search_path TO elsewhere")
        assert await provider.client.fetchval("SHOW search_path") != "elsewhere"
        assert (
            await provider.client.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted") == 0
        )


async def test_statements_of_ours_are_not_followed_by_a_reset(
    provider: PostgresProvider, other: Any
) -> None:
    await provider.fetch("SELECT 1")
    last = "SELECT query FROM pg_stat_activity WHERE pid = $1"
    (row,) = await provider.fetch("SELECT pg_backend_pid()")
    assert await other.fetchval(last, row[0]) == "SELECT pg_backend_pid()"
    pid = await provider.client.fetchval("SELECT pg_backend_pid()")
    assert "RESET ALL" in await other.fetchval(last, pid)


async def test_a_transaction_that_was_left_open_is_not_handed_on(postgres_url: str) -> None:
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)  # the driver says it there
    async with PostgresProvider(postgres_url, max_connections=1) as provider:
        await provider.execute("BEGIN")
        async with provider.client.acquire() as connection:
            assert not connection.is_in_transaction()


async def test_a_script_is_one_transaction(
    provider: PostgresProvider, postgres_schema: str
) -> None:
    table = f"{postgres_schema}.t"
    with pytest.raises(asyncpg.DivisionByZeroError):
        await provider.execute(f"CREATE TABLE {table} (n int); SELECT 1/0")
    with pytest.raises(asyncpg.UndefinedTableError):
        await provider.fetch(f"SELECT * FROM {table}")
    await provider.execute(f"CREATE TABLE {table} (n int)")
    assert await provider.execute(f"INSERT INTO {table} VALUES ($1)", 3) == "INSERT 0 1"


async def test_what_the_server_rolled_back_for_others_is_tried_again(
    provider: PostgresProvider, postgres_schema: str
) -> None:
    sequence = f"{postgres_schema}.tries"
    await provider.execute(f"CREATE SEQUENCE {sequence}")
    script = f"""DO $$ BEGIN
        IF nextval('{sequence}') < 3 THEN RAISE 'a deadlock' USING ERRCODE = '40P01'; END IF;
    END $$"""
    await provider.execute(script)
    assert (await provider.fetch(f"SELECT last_value FROM {sequence}"))[0][0] == 3


def test_another_loop_may_have_it_once_the_first_is_gone(postgres_url: str) -> None:
    provider = PostgresProvider(postgres_url)

    async def use() -> float:
        async with provider:
            return await provider.ping()

    assert asyncio.run(use()) > 0
    assert asyncio.run(use()) > 0

    async def leave_open() -> None:
        await provider.__aenter__()
        await provider.ping()
        provider.client.terminate()

    asyncio.run(leave_open())
    assert asyncio.run(use()) > 0


async def test_another_loop_may_not_have_it_meanwhile(provider: PostgresProvider) -> None:
    refused: list[BaseException] = []

    async def enter() -> None:
        async with provider:
            pass

    def elsewhere() -> None:
        for attempt in (enter, provider.ping):
            try:
                asyncio.run(attempt())
            except OutOfContextError as error:
                refused.append(error)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    await asyncio.to_thread(thread.join)
    assert len(refused) == 2
    assert await provider.ping() > 0


def _child(provider: PostgresProvider, answers: Any) -> None:
    async def use() -> object:
        try:
            await provider.ping()
        except OutOfContextError:
            async with provider:
                rows = await provider.fetch("SELECT pg_backend_pid()")
                return rows[0][0]
        return "used the parent's"

    answers.put(asyncio.run(use()))


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
async def test_a_forked_child_begins_anew(postgres_url: str) -> None:
    fork = multiprocessing.get_context("fork")
    async with PostgresProvider(postgres_url, max_connections=1) as provider:
        (mine,) = await provider.fetch("SELECT pg_backend_pid()")
        answers = fork.Queue()
        child = fork.Process(target=_child, args=(provider, answers))
        child.start()
        theirs = await asyncio.to_thread(answers.get, True, 20)
        await asyncio.to_thread(child.join)
        assert isinstance(theirs, int)
        assert theirs != mine[0]
        assert (await provider.fetch("SELECT pg_backend_pid()"))[0][0] == mine[0]


async def test_a_provider_alone_is_a_whole_wiring(postgres_url: str, postgres_schema: str) -> None:
    async with Grelmicro(
        uses=[PostgresProvider(postgres_url + f"?options=-csearch_path%3D{postgres_schema}")]
    ):
        cache: TTLCache[int] = TTLCache(serializer=JsonSerializer())
        await cache.set("k", 7)
        assert await cache.get("k") == 7


async def test_two_pools_by_prefix(
    postgres_url: str, postgres_schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WRITE_POSTGRES_URL", postgres_url)
    monkeypatch.setenv("READ_POSTGRES_URL", postgres_url)
    write = PostgresProvider(env_prefix="WRITE_POSTGRES_")
    read = PostgresProvider(env_prefix="READ_POSTGRES_")
    table = f"{postgres_schema}.cache"
    async with Grelmicro(
        uses=[
            write, read,
            Cache(PostgresCacheAdapter(provider=write, table_name=table)),
            Cache(PostgresCacheAdapter(provider=read, table_name=table), name="read"),
        ]
    ) as micro:  # fmt: skip
        assert write.client is not read.client
        await micro.get("cache").backend.set(key="k", value=b"v", ttl=60)
        assert await micro.get("cache", "read").backend.get(key="k") == b"v"


async def test_a_connection_that_is_never_given_back_does_not_keep_it_open(
    postgres_url: str,
) -> None:
    provider = PostgresProvider(postgres_url, timeout=0.2)
    async with asyncio.timeout(20):
        async with provider:
            held = await provider.client.acquire()
        with pytest.raises(asyncpg.InterfaceError):
            await held.fetchval("SELECT 1")
