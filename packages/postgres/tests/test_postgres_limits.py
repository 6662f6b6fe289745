"""Rate limits on a real Postgres: schema, batches, rows that disappear, a server that dies."""

import asyncio
import logging
import os
import random
import sys
import time
from typing import Any

import asyncpg
import pytest

from grelmicro import Grelmicro
from grelmicro.providers.postgres import PostgresProvider
from grelmicro.resilience import (
    RateLimit,
    RateLimiter,
    ResilienceError,
    ResilienceSettingsValidationError,
    SlidingWindowConfig,
)
from grelmicro.resilience.postgres import PostgresRateLimiterAdapter
from grelmicro.testing.servers import PostgresServer


@pytest.fixture
async def backend(provider: PostgresProvider, postgres_schema: str) -> PostgresRateLimiterAdapter:
    return provider.ratelimiter(table_name=f"{postgres_schema}.limits")


def hourly(limit: int, backend: Any = None, *, fail_open: bool = False) -> RateLimiter:
    return RateLimiter.sliding_window(
        "api", limit=limit, window=3600, backend=backend, fail_open=fail_open
    )


# Settings and schema.


@pytest.mark.parametrize("name", ["", "a b", 'a"', "a;--", "a.b.c", "1a", "é", "x" * 54, None])
def test_a_table_name_that_cannot_be_used_is_refused(name: Any) -> None:
    with pytest.raises(ResilienceSettingsValidationError, match="table_name: "):
        PostgresProvider(host="x").ratelimiter(table_name=name)


@pytest.mark.parametrize("prefix", ["a\0", "x" * 201, None, b"a"])
def test_a_prefix_that_cannot_be_used_is_refused(prefix: Any) -> None:
    with pytest.raises(ResilienceSettingsValidationError, match="prefix: "):
        PostgresProvider(host="x").ratelimiter(prefix=prefix)


async def test_the_longest_names_and_reserved_words_will_do(
    provider: PostgresProvider, postgres_schema: str
) -> None:
    for name in ("x" * 53, "user", "Select"):
        limiter = hourly(1, provider.ratelimiter(table_name=f"{postgres_schema}.{name}"))
        assert [bool(await limiter.acquire(key="k")) for _ in range(2)] == [True, False]


async def test_prefixes_share_a_table_without_meeting(
    provider: PostgresProvider, postgres_schema: str
) -> None:
    for prefix in ("", "a", "ab", "1", "1:"):
        table = f"{postgres_schema}.limits"
        limiter = hourly(1, provider.ratelimiter(table_name=table, prefix=prefix))
        assert [bool(await limiter.acquire(key="k")) for _ in range(2)] == [True, False]


async def test_replicas_that_begin_at_once_do_not_meet(
    postgres_url: str, postgres_schema: str
) -> None:
    async def replica(table: str) -> list[bool]:
        async with PostgresProvider(postgres_url, max_connections=3) as provider:
            limiter = hourly(8, provider.ratelimiter(table_name=f"{postgres_schema}.{table}"))
            return [bool(await limiter.acquire(key="k")) for _ in range(2)]

    for table in ("first", "second", "third"):
        found = await asyncio.gather(*(replica(table) for _ in range(8)))
        assert sum(sum(each) for each in found) == 8


async def test_what_is_dropped_is_made_again(
    backend: PostgresRateLimiterAdapter, postgres_schema: str, other: Any
) -> None:
    limiter = hourly(2, backend)
    arguments = "bytea[], bigint[], bigint[], bigint[], bigint[], boolean[]"
    for statement in (
        f"DROP TABLE {postgres_schema}.limits",
        f"DROP FUNCTION {postgres_schema}.limits_decide_1({arguments})",
    ):
        await limiter.reset(key="k")
        assert (await limiter.acquire(key="k")).remaining == 1
        await other.execute(statement)
        assert (await limiter.acquire(key="k")).remaining in (0, 1)


async def test_nothing_is_made_by_who_only_looks(
    backend: PostgresRateLimiterAdapter, postgres_schema: str, other: Any
) -> None:
    limiter = hourly(2, backend)
    await limiter.reset(key="k")
    assert await limiter.peek(key="k") == (True, 2, 2, 0.0, 0.0)
    assert await other.fetchval(f"SELECT to_regclass('{postgres_schema}.limits')") is None


async def test_the_schema_can_be_made_by_hand(
    provider: PostgresProvider, postgres_schema: str, other: Any
) -> None:
    table = f"{postgres_schema}.limits"
    backend = provider.ratelimiter(table_name=table, create_schema=False, unlogged=False)
    limiter = hourly(1, backend)
    for call in (limiter.acquire, limiter.peek, limiter.reset):
        with pytest.raises(ResilienceError) as caught:
            await call(key="k")
        cause = caught.value.__cause__
        assert isinstance(cause, asyncpg.UndefinedFunctionError | asyncpg.UndefinedTableError)
        assert "schema" in cause.__notes__[0]
    for _ in range(2):  # again is fine
        await other.execute(backend.schema)
    assert [bool(await limiter.acquire(key="k")) for _ in range(2)] == [True, False]
    kind = f"SELECT relpersistence FROM pg_class WHERE oid = '{table}'::regclass"
    assert await other.fetchval(kind) == b"p"
    assert provider.ratelimiter().schema.startswith("CREATE UNLOGGED TABLE")


# Decisions.


async def test_what_many_ask_at_once_travels_together(
    backend: PostgresRateLimiterAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    limiter, sent = hourly(1000, backend), []
    await limiter.acquire(key="k")
    fetch = backend.provider.fetch

    def counted(*args: Any, **kwargs: Any) -> Any:
        sent.append(len(args[1]))
        return fetch(*args, **kwargs)

    monkeypatch.setattr(backend.provider, "fetch", counted)
    keys = [f"k{number % 7}" for number in range(64)]
    found = await asyncio.gather(*(limiter.acquire(key=key) for key in keys))
    assert sent == [64]
    for key in {*keys}:  # one after the other, as they came
        mine = [r.remaining for k, r in zip(keys, found, strict=True) if k == key]
        assert mine == [*range(mine[0], mine[0] - len(mine), -1)]


async def test_batches_in_any_order_never_deadlock(
    postgres_url: str, postgres_schema: str, other: Any
) -> None:
    count = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    before = await other.fetchval(count)

    async def replica(number: int) -> int:
        rng = random.Random(number)
        async with PostgresProvider(postgres_url, max_connections=3) as provider:
            limiter = hourly(90, provider.ratelimiter(table_name=f"{postgres_schema}.t"))
            taken = 0
            for _ in range(15):
                keys = [f"k{n}" for n in range(20)] * 2
                rng.shuffle(keys)
                asked = (limiter.acquire(key=key, cost=rng.randint(1, 9)) for key in keys)
                found = await asyncio.gather(*asked)
                taken += sum(not result for result in found)
            return taken

    refused = await asyncio.gather(*map(replica, range(4)))
    assert sum(refused)
    await other.execute("SELECT pg_stat_clear_snapshot()")
    assert await other.fetchval(count) == before


async def test_replicas_share_a_quota_under_every_isolation(
    postgres_url: str, postgres_schema: str
) -> None:
    for level in ("read committed", "repeatable read", "serializable"):
        url = f"{postgres_url}?default_transaction_isolation={level.replace(' ', '%20')}"
        table = f"{postgres_schema}.{level.replace(' ', '_')}"

        async def replica(url: str = url, table: str = table) -> int:
            async with PostgresProvider(url) as provider:
                limiter = hourly(10, provider.ratelimiter(table_name=table))
                return sum([bool(await limiter.acquire(key="k")) for _ in range(10)])

        assert sum(await asyncio.gather(replica(), replica())) == 10


async def test_hot_rows_touch_no_index(
    backend: PostgresRateLimiterAdapter, postgres_schema: str, other: Any
) -> None:
    limiter = hourly(10**6, backend)  # a call moves the row's end by milliseconds
    for _ in range(100):
        await limiter.acquire(key="k")
    stats = (
        "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables "
        f"WHERE relid = '{postgres_schema}.limits'::regclass"
    )
    deadline = time.monotonic() + 20
    while True:  # backends tell their numbers when they have time
        await backend.provider.fetch("SELECT pg_stat_force_next_flush()")
        await other.execute("SELECT pg_stat_clear_snapshot()")
        updates, hot = await other.fetchrow(stats)
        if updates >= 50:
            break
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)
    assert hot >= updates - 3  # the first fills the row, and a minute may end


# Rows that disappear.


async def test_idle_rows_are_removed_by_those_who_ask(
    backend: PostgresRateLimiterAdapter,
    postgres_schema: str,
    other: Any,
) -> None:
    backend._sweeper._seconds = 0.0
    table = f"{postgres_schema}.limits"
    limiter = RateLimiter.token_bucket("quick", capacity=5, refill_rate=1000, backend=backend)
    keys = [f"k{number}" for number in range(2500)]
    await hourly(2, backend).acquire(key="in use", cost=2)
    await asyncio.gather(*(limiter.acquire(key=key) for key in keys))
    await other.execute(f"UPDATE {table} SET idle_from = idle_from - 3600, at = at - 3600000000")
    await other.execute(f"UPDATE {table} SET idle_from = idle_from + 7200 WHERE key LIKE '%in use'")
    await limiter.acquire(key="new")
    deadline = time.monotonic() + 20
    while (left := await other.fetchval(f"SELECT count(*) FROM {table}")) > 2:
        assert time.monotonic() < deadline, left
        await asyncio.sleep(0.01)
    rows = await other.fetch(f"SELECT key FROM {table}")
    assert any(row[0].endswith(b"in use") for row in rows)


async def test_a_row_is_never_idle_while_something_is_owed(
    backend: PostgresRateLimiterAdapter, postgres_schema: str, other: Any
) -> None:
    for name, made in {
        "sliding": SlidingWindowConfig(limit=10, window=100),
        "bucket": SlidingWindowConfig(limit=3, window=0.5),
    }.items():
        limiter = RateLimiter(name, made, backend=backend)
        result = await limiter.acquire(key=name, cost=2)
        query = (
            "SELECT idle_from - extract(epoch FROM clock_timestamp()) "
            f"FROM {postgres_schema}.limits WHERE key LIKE $1"
        )
        left = float(await other.fetchval(query, f"%{name}".encode()))
        assert result.reset_after - 1 <= left <= result.reset_after + 60


# Servers that are away.


async def test_a_dead_server_is_one_error_in_time_or_lets_through(
    own_postgres: PostgresServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "grelmicro.resilience")
    async with PostgresProvider(own_postgres.url, timeout=0.5) as provider:
        backend = provider.ratelimiter()
        strict, lenient = hourly(100, backend), hourly(100, backend, fail_open=True)
        assert (await strict.acquire(key="k")).remaining == 99
        own_postgres.kill()
        async with asyncio.timeout(20):
            for _ in range(3):
                with pytest.raises(ResilienceError) as caught:
                    await strict.acquire(key="k")
                assert caught.value.__cause__ is not None
                assert await lenient.acquire(key="k")
        assert len(caplog.records) == 1
        own_postgres.restart()
        deadline = time.monotonic() + 30
        while (await lenient.acquire(key="k")).remaining == 0:
            assert time.monotonic() < deadline
        assert "limits again" in caplog.records[-1].getMessage()


FORKS = """
import asyncio, os, sys
from grelmicro.providers.postgres import PostgresProvider
from grelmicro.resilience import RateLimiter

async def child(provider, limiter):
    async with provider:
        return 0 if await limiter.acquire(key="k") else 2

async def main():
    async with PostgresProvider(sys.argv[1]) as provider:
        backend = provider.ratelimiter(table_name=sys.argv[2])
        limiter = RateLimiter.sliding_window("api", limit=100, window=3600, backend=backend)
        await limiter.acquire(key="k")
        tasks = [asyncio.create_task(limiter.acquire(key="k")) for _ in range(20)]
        for _ in range(3):
            await asyncio.sleep(0)  # they are sent
        assert not any(task.done() for task in tasks)
        pid = os.fork()
        if not pid:
            asyncio._set_running_loop(None)
            code = 3
            try:
                code = asyncio.run(asyncio.wait_for(child(provider, limiter), 20))
            finally:
                os._exit(code)
        assert all(await asyncio.gather(*tasks))
        _, status = await asyncio.to_thread(os.waitpid, pid, 0)
        assert (await limiter.acquire(key="k")).remaining == 100 - 1 - 20 - 1 - 1
        return os.waitstatus_to_exitcode(status)

sys.exit(asyncio.run(main()))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nobody forks here")
async def test_a_child_that_is_forked_while_others_ask_is_answered(
    postgres_url: str, postgres_schema: str
) -> None:
    """What is under way is the parent's: the child does not wait for it, and is not refused."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKS),
        *(postgres_url, f"{postgres_schema}.limits"),
    )
    assert await process.wait() == 0


async def test_wirings(
    postgres_url: str, postgres_schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"{postgres_url}?options=-csearch_path%3D{postgres_schema}"
    monkeypatch.setenv("POSTGRES_URL", url)
    provider = PostgresProvider(url)
    for uses in ([provider], [provider, RateLimit(provider)], [PostgresRateLimiterAdapter()]):
        limiter = hourly(10)
        for _ in range(2):
            async with Grelmicro(uses=uses) as micro:
                assert isinstance(micro.ratelimiter.backend, PostgresRateLimiterAdapter)
                assert (await limiter.acquire(key="k")).remaining == 9
                found = await asyncio.to_thread(limiter.from_thread.acquire, key="k")
                assert found.remaining == 8
                await limiter.reset(key="k")
