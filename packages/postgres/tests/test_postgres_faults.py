"""Statements while the network or the server misbehaves, and callers who leave."""

import asyncio
import random
from collections.abc import AsyncGenerator, Callable
from typing import Any

import asyncpg
import pytest

from grelmicro.cache import CacheError, JsonSerializer, TTLCache
from grelmicro.cache.postgres import PostgresCacheAdapter
from grelmicro.providers.postgres import OutcomeUnknownError, PostgresProvider
from grelmicro.testing.proxy import FaultProxy
from grelmicro.testing.servers import PostgresServer

Until = Callable[[Callable[[], object], str], Any]

TIMEOUT = 0.5
SLACK = 5.0


@pytest.fixture
async def proxy(postgres_server: PostgresServer) -> AsyncGenerator[FaultProxy]:
    async with FaultProxy(postgres_server.host, postgres_server.port) as proxy:
        yield proxy


@pytest.fixture
async def far(proxy: FaultProxy, postgres_url: str) -> AsyncGenerator[PostgresProvider]:
    """A provider behind the proxy, connected already."""
    async with PostgresProvider(
        proxy.url_for(postgres_url), timeout=TIMEOUT, max_connections=2
    ) as provider:
        await provider.ping()
        yield provider
        proxy.heal()


@pytest.fixture
async def counted(other: Any, postgres_schema: str) -> str:
    """A table that rows are put into, to see how often."""
    await other.execute(f"CREATE TABLE {postgres_schema}.t (n int)")
    return f"{postgres_schema}.t"


async def test_a_read_is_repeated_after_a_lost_reply(
    far: PostgresProvider, proxy: FaultProxy
) -> None:
    query = "SELECT 7 AS number"
    await far.fetch(query, repeatable=True)
    for size in (0, 1, 5, 20):
        proxy.cut_after(size)
        assert (await far.fetch(query, repeatable=True))[0][0] == 7


async def test_a_write_is_not_repeated_and_says_so(
    far: PostgresProvider, proxy: FaultProxy, other: Any, counted: str
) -> None:
    query = f"INSERT INTO {counted} VALUES ($1)"
    await far.execute(query, 0)
    proxy.cut_after(0)
    with pytest.raises(OutcomeUnknownError) as caught:
        await far.execute(query, 1)
    assert caught.value.__cause__ is not None
    assert await far.execute(query, 2) == "INSERT 0 1"
    rows = await other.fetch(f"SELECT n, count(*) FROM {counted} GROUP BY n")
    assert {row[0]: row[1] for row in rows} | {1: 1} == {0: 1, 1: 1, 2: 1}


async def test_a_write_that_was_never_sent_is_sent(
    far: PostgresProvider, proxy: FaultProxy, counted: str, until: Until
) -> None:
    proxy.cut()
    await until(lambda: far.client.get_size() == 0, "the pool has seen it")
    proxy.refuse()
    asked = asyncio.create_task(far.execute(f"INSERT INTO {counted} VALUES (1)"))
    await asyncio.sleep(0.01)
    proxy.heal()
    assert await asked == "INSERT 0 1"


@pytest.mark.parametrize("fault", ["stall", "delay"])
async def test_everything_ends_in_time(
    fault: str, far: PostgresProvider, proxy: FaultProxy, postgres_schema: str
) -> None:
    adapter = far.cache(table_name=f"{postgres_schema}.cache")
    await adapter.set(key="k", value=b"v", ttl=60)
    if fault == "stall":
        proxy.stall()
    else:
        proxy.delay(60)
    operations = [
        adapter.get(key="k"),
        adapter.get_with_ttl(key="k"),
        adapter.get_many(keys=["k"]),
        adapter.set(key="k", value=b"w", ttl=60),
        adapter.set_many(entries={"k": b"w"}, ttl=60),
        adapter.touch(key="k", ttl=60),
        adapter.delete(key="k"),
        adapter.clear(),
        far.ping(),
        far.execute("SELECT 1"),
    ]
    started = asyncio.get_running_loop().time()
    outcomes = await asyncio.gather(*operations, return_exceptions=True)
    assert asyncio.get_running_loop().time() - started < TIMEOUT + SLACK
    assert [type(outcome) for outcome in outcomes] == [TimeoutError] * len(operations)
    proxy.heal()
    assert await far.ping() > 0
    assert far.client.get_size() <= 2


async def test_waiting_for_a_connection_counts(postgres_url: str) -> None:
    async with PostgresProvider(postgres_url, timeout=0.2, max_connections=1) as provider:
        async with provider.client.acquire():
            with pytest.raises(TimeoutError):
                await provider.ping()
        assert await provider.ping() > 0


async def test_a_slow_statement_ends_with_its_connection(postgres_url: str) -> None:
    async with PostgresProvider(postgres_url, timeout=0.2, max_connections=1) as provider:
        with pytest.raises(TimeoutError):
            await provider.fetch("SELECT pg_sleep(60)")
        assert await provider.ping() > 0


async def test_cancelled_callers_leave_no_connection_out_of_step(
    far: PostgresProvider, proxy: FaultProxy
) -> None:
    dice = random.Random(7)

    async def ask(number: int) -> None:
        rows = await far.fetch("SELECT $1::int", number, repeatable=True)
        assert rows[0][0] == number

    for _ in range(40):
        proxy.delay(dice.choice([0, 0.002]))
        tasks = [asyncio.create_task(ask(number)) for number in range(8)]
        await asyncio.sleep(dice.random() * 0.01)
        for task in tasks:
            if dice.random() < 0.5:
                task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} <= {type(None), asyncio.CancelledError}
    assert far.client.get_size() <= 2


async def test_a_cancelled_caller_in_a_batch_takes_nobody_with_it(
    proxy: FaultProxy, postgres_url: str, postgres_schema: str
) -> None:
    async with PostgresProvider(proxy.url_for(postgres_url)) as provider:
        await _cancel_some(provider.cache(table_name=f"{postgres_schema}.cache"), proxy)


async def _cancel_some(adapter: PostgresCacheAdapter, proxy: FaultProxy) -> None:
    names = [f"k{number}" for number in range(20)]
    proxy.delay(0.05)
    sets = [asyncio.create_task(adapter.set(key=n, value=n.encode(), ttl=60)) for n in names]
    await asyncio.sleep(0.01)
    sets[3].cancel()
    await asyncio.gather(*sets, return_exceptions=True)
    gets = [asyncio.create_task(adapter.get(key=name)) for name in names]
    await asyncio.sleep(0.01)
    gets[5].cancel()
    found = await asyncio.gather(*gets, return_exceptions=True)
    assert isinstance(found.pop(5), asyncio.CancelledError)
    names.pop(5)
    assert found == [name.encode() for name in names]  # the cancelled one was stored as well


@pytest.mark.parametrize("own", [True, False])
async def test_closing_waits_for_what_is_in_flight(
    own: bool, proxy: FaultProxy, postgres_url: str, other: Any, counted: str
) -> None:
    pool = await asyncpg.create_pool(proxy.url_for(postgres_url), min_size=0)
    async with PostgresProvider.from_client(pool, own=own) as provider:
        await provider.ping()
        proxy.delay(0.1)
        asked = asyncio.create_task(provider.execute(f"INSERT INTO {counted} VALUES (1)"))
        await asyncio.sleep(0.02)
        asked.cancel()
    assert pool.get_size() == pool.get_idle_size()  # nothing is on its way any more
    assert await other.fetchval(f"SELECT count(*) FROM {counted}") == 1
    proxy.heal()
    await pool.close()


async def test_closing_while_nothing_answers_ends(proxy: FaultProxy, postgres_url: str) -> None:
    async with asyncio.timeout(2 * TIMEOUT + SLACK):
        async with PostgresProvider(proxy.url_for(postgres_url), timeout=TIMEOUT) as provider:
            await provider.ping()
            proxy.stall()
            asked = asyncio.create_task(provider.ping())
            await asyncio.sleep(0.01)
        with pytest.raises(TimeoutError):
            await asked
    assert asyncio.all_tasks() - {asyncio.current_task()} <= {
        task for task in asyncio.all_tasks() if "FaultProxy" in repr(task)
    }


async def test_sessions_that_an_administrator_ends(provider: PostgresProvider, other: Any) -> None:
    mine = "SELECT pg_backend_pid()"
    for _ in range(5):
        (row,) = await provider.fetch(mine, repeatable=True)
        await other.fetchval("SELECT pg_terminate_backend($1, 5000)", row[0])
        (after,) = await provider.fetch(mine, repeatable=True)
        assert after[0] != row[0]
    asked = asyncio.create_task(provider.execute("SELECT pg_sleep(61)"))
    find = "SELECT pid FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(61)'"
    async with asyncio.timeout(20):
        while (pid := await other.fetchval(find)) is None:  # noqa: ASYNC110  # no event tells
            await asyncio.sleep(0.005)
    await other.fetchval("SELECT pg_terminate_backend($1, 5000)", pid)
    with pytest.raises(OutcomeUnknownError):
        await asked


Fault = tuple[Callable[[PostgresServer], None], Callable[[PostgresServer], None]]
FAULTS: dict[str, Fault] = {
    "killed": (PostgresServer.kill, PostgresServer.restart),
    "frozen": (PostgresServer.pause, PostgresServer.resume),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_an_outage_under_load(fault: str, own_postgres: PostgresServer, until: Until) -> None:
    hurt, heal = FAULTS[fault]
    done, wrong, errors = 0, [], set()
    slowest = 0.0
    loop = asyncio.get_running_loop()

    async def hammer(cache: TTLCache[int], number: int) -> None:
        nonlocal done, slowest
        for turn in range(10**9):
            started = loop.time()
            try:
                await cache.set(f"{number}", turn)
                value = await cache.get(f"{number}")
                if value not in (turn, None):  # None: a crash empties the table
                    wrong.append((number, turn, value))
                done += 1
            except Exception as error:
                errors.add(type(error))
            slowest = max(slowest, loop.time() - started)
            await asyncio.sleep(0.001)

    async with PostgresProvider(own_postgres.url, timeout=TIMEOUT) as provider:
        cache: TTLCache[int] = TTLCache(backend=provider.cache(), serializer=JsonSerializer())
        tasks = [asyncio.create_task(hammer(cache, number)) for number in range(8)]
        for _ in range(2):
            before = done
            await until(lambda: done > before + 100, "the load runs")  # noqa: B023  # awaited here
            errors.clear()
            hurt(own_postgres)
            await until(lambda: errors, "the outage is felt")
            await asyncio.to_thread(heal, own_postgres)
        before = done
        await until(lambda: done > before + 100, "service again")
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    assert errors == {CacheError}
    assert wrong == []
    assert slowest < 2 * TIMEOUT + SLACK


async def test_an_error_shows_no_password_key_or_value() -> None:
    async with PostgresProvider("postgresql://u:s3cr3t@127.0.0.1:1/d", timeout=TIMEOUT) as provider:
        adapter = PostgresCacheAdapter(provider=provider)
        with pytest.raises(CacheError) as caught:
            await TTLCache(backend=adapter).set("my-key", b"my-value")
    for secret in ("s3cr3t", "my-key", "my-value"):
        assert secret not in str(caught.value)


async def test_a_fault_of_the_driver_is_not_taken_for_a_lost_connection(
    far: PostgresProvider,
) -> None:
    with pytest.raises(asyncpg.DataError):
        await far.fetch("SELECT $1::int", "no number")
    with pytest.raises(asyncpg.PostgresSyntaxError):
        await far.fetch("SELEKT")
