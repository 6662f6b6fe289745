"""Circuit breakers on Postgres: their table, what stays of it, clocks."""

import asyncio
from collections.abc import AsyncIterator, Callable
from time import monotonic
from typing import Any

import asyncpg
import pytest

from grelmicro.providers.postgres import PostgresProvider
from grelmicro.resilience import (
    CircuitBreaker,
    CircuitBreakerError,
    CircuitBreakerState,
    ResilienceSettingsValidationError,
)
from grelmicro.resilience.postgres import PostgresCircuitBreakerAdapter


@pytest.fixture
async def provider(postgres_url: str, postgres_schema: str) -> AsyncIterator[PostgresProvider]:
    """A provider that is closed before the test's schema is dropped."""
    async with PostgresProvider(postgres_url) as provider:
        yield provider


@pytest.fixture
def table(postgres_schema: str) -> str:
    return f"{postgres_schema}.breakers"


async def fail(breaker: CircuitBreaker) -> None:
    with pytest.raises(KeyError):
        async with breaker:
            raise KeyError


async def until(condition: Callable[[], object]) -> None:
    started = monotonic()
    while not condition():
        assert monotonic() - started < 10, "nothing came of it"
        await asyncio.sleep(0.005)


async def is_there(provider: PostgresProvider, table: str) -> bool:
    return bool((await provider.fetch("SELECT to_regclass($1)", table))[0][0])


async def test_the_table_is_made_when_there_is_something_to_report(
    provider: PostgresProvider, table: str
) -> None:
    async with provider.breaker(table_name=table) as backend:
        breaker = CircuitBreaker("b", backend=backend)
        async with breaker:
            pass
        await until(lambda: backend._fleet._hears)
        assert not await is_there(provider, table)
        await fail(breaker)
        await until(lambda: not backend._fleet._pushers)
        assert await is_there(provider, table)
        rows = await provider.fetch(f"SELECT name, errors FROM {table}")
        assert [*map(tuple, rows)] == [("b", 1)]


async def test_replicas_that_make_it_at_once_wait_for_each_other(
    postgres_url: str, table: str
) -> None:
    async def report() -> None:
        provider = PostgresProvider(postgres_url)
        async with provider, provider.breaker(table_name=table) as backend:
            await CircuitBreaker("b", backend=backend).transition_to_forced_open()

    await asyncio.gather(*(report() for _ in range(8)))


async def test_it_can_be_made_by_hand(
    provider: PostgresProvider, table: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with provider.breaker(table_name=table, create_schema=False) as backend:
        breaker = CircuitBreaker("b", error_threshold=1, backend=backend)
        await fail(breaker)  # goes by what it knows
        with pytest.raises(CircuitBreakerError):
            await fail(breaker)
        assert isinstance(backend, PostgresCircuitBreakerAdapter)
        await until(lambda: backend._fleet.is_away)
        assert "Undefined" in caplog.text
        await provider.execute(backend.schema)
        await until(lambda: not backend._fleet.is_away and not backend._fleet._pushers)
        rows = await provider.fetch(f"SELECT state FROM {table}")
        assert rows[0][0] == 1


async def test_idle_breakers_are_removed_and_forced_ones_stay(
    provider: PostgresProvider, table: str
) -> None:
    async with provider.breaker(table_name=table) as backend:
        for name in ("idle", "forced", "lively"):
            breaker = CircuitBreaker(name, backend=backend)
            if name == "forced":
                await breaker.transition_to_forced_open()
            else:
                await breaker.transition_to_open()
        await provider.execute(
            f"UPDATE {table} SET idle_from = idle_from - 3600 - 30 WHERE name <> 'lively'"
        )
        await backend._sweeper.sweep(provider)
        rows = await provider.fetch(f"SELECT name FROM {table} ORDER BY name")
        assert [row[0] for row in rows] == ["forced", "lively"]


async def test_a_clock_that_was_set_back_keeps_nobody_out_for_longer(
    provider: PostgresProvider, table: str
) -> None:
    async with provider.breaker(table_name=table, permit_lease=1) as backend:
        breaker = CircuitBreaker("b", reset_timeout=0.3, success_threshold=1, backend=backend)
        await breaker.transition_to_open()
        await provider.execute(
            f"""UPDATE {table} SET ends = ends + 3600000000, permits =
            jsonb_build_object('somebodys', ends + 3600000000)"""
        )
        async with asyncio.timeout(10):
            while breaker.state is not CircuitBreakerState.CLOSED:
                try:
                    async with breaker:
                        pass
                except CircuitBreakerError:
                    await asyncio.sleep(0.05)


async def test_tables_of_one_name_in_two_schemas_have_nothing_to_do_with_each_other(
    provider: PostgresProvider, postgres_schema: str
) -> None:
    other = f"{postgres_schema}_other"
    await provider.execute(f"CREATE SCHEMA {other}")
    try:
        async with (
            provider.breaker(table_name=f"{postgres_schema}.breakers") as one,
            provider.breaker(table_name=f"{other}.breakers") as two,
        ):
            breakers = [CircuitBreaker("b", backend=backend) for backend in (one, two)]
            await breakers[1].transition_to_forced_closed()
            await breakers[0].transition_to_forced_open()
            await until(lambda: not two._fleet._pushers)
            assert breakers[1].state is CircuitBreakerState.FORCED_CLOSED
            two._fleet.wake()
            await asyncio.sleep(0.1)
            assert breakers[1].state is CircuitBreakerState.FORCED_CLOSED
    finally:
        await provider.execute(f"DROP SCHEMA {other} CASCADE")


async def test_a_lost_connection_loses_no_trip(
    provider: PostgresProvider, postgres_url: str, table: str
) -> None:
    other = PostgresProvider(postgres_url)
    async with (
        other,
        provider.breaker(table_name=table) as one,
        other.breaker(table_name=table) as two,
    ):
        here, there = (CircuitBreaker("b", backend=each) for each in (one, two))
        assert there.state is CircuitBreakerState.CLOSED
        await until(lambda: two._fleet._hears)
        await here.transition_to_forced_closed()
        await until(lambda: there.state is CircuitBreakerState.FORCED_CLOSED)
        await provider.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE query LIKE 'LISTEN%' AND pid <> pg_backend_pid()"
        )
        await here.transition_to_forced_open()
        await until(lambda: there.metrics().state is CircuitBreakerState.FORCED_OPEN)


@pytest.mark.parametrize(
    "settings", [{"table_name": "a b"}, {"table_name": "x" * 60}, {"permit_lease": 0}]
)
def test_settings_are_checked(settings: dict[str, Any]) -> None:
    with pytest.raises(ResilienceSettingsValidationError, match=f"^{next(iter(settings))}: "):
        PostgresCircuitBreakerAdapter(
            provider=PostgresProvider("postgresql://localhost"), **settings
        )


async def test_the_statements_of_all_adapters_make_it(
    postgres_url: str, postgres_schema: str
) -> None:
    connection = await asyncpg.connect(postgres_url)
    try:
        await connection.execute(f"SET search_path = {postgres_schema}")
        await connection.execute(PostgresProvider.ddl())
        assert await connection.fetchval("SELECT count(*) FROM breakers") == 0
    finally:
        await connection.close()
