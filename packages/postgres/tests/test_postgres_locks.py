"""Locks on a real Postgres: what is of its own; the promises of all backends are in the kit."""

import asyncio
from collections import Counter
from collections.abc import Callable
from time import monotonic
from typing import Any

import asyncpg
import pytest

from grelmicro.providers.postgres import PostgresProvider
from grelmicro.sync import (
    LeaderElection,
    Lock,
    LockAcquireError,
    LockLockedCheckError,
    LockLostError,
    SyncSettingsValidationError,
)
from grelmicro.sync.postgres import PostgresSyncAdapter

Until = Callable[[Callable[[], object], str], Any]

NEVER = 60.0
"""Seconds between two looks of a waiter that is to be woken by a message."""


@pytest.fixture
async def backend(provider: PostgresProvider, postgres_schema: str) -> PostgresSyncAdapter:
    return provider.sync(table_name=f"{postgres_schema}.locks")


# Holders.


async def test_one_holder_at_a_time_in_two_replicas(
    postgres_url: str, postgres_schema: str
) -> None:
    inside = most = 0
    done: Counter[int] = Counter()

    async def work(backend: PostgresSyncAdapter, number: int) -> None:
        nonlocal inside, most
        for _ in range(5):
            async with Lock("cart", backend=backend):
                inside += 1
                most = max(most, inside)
                await asyncio.sleep(0.001)
                inside -= 1
                done[number] += 1

    table = f"{postgres_schema}.locks"
    async with PostgresProvider(postgres_url) as one, PostgresProvider(postgres_url) as two:
        backends = [one.sync(table_name=table), two.sync(table_name=table)]
        await asyncio.gather(*(work(backends[number % 2], number) for number in range(16)))
    assert most == 1
    assert set(done.values()) == {5}
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_numbers_rise_even_when_the_rows_are_gone(
    backend: PostgresSyncAdapter, postgres_schema: str, other: Any
) -> None:
    numbers = []
    for _ in range(3):
        async with Lock("cart", backend=backend) as handle:
            numbers.append(handle.fencing_token)
        await other.execute(f"TRUNCATE {postgres_schema}.locks")
    assert numbers == sorted({*numbers})
    assert numbers[0] > 0


async def test_numbers_rise_while_many_take_a_new_name_at_once(
    postgres_url: str, postgres_schema: str
) -> None:
    async with PostgresProvider(postgres_url, max_connections=20) as provider:
        backend = provider.sync(table_name=f"{postgres_schema}.locks")

        async def life(name: str, number: int) -> int:
            token = f"t{number}"
            while not (got := await backend.acquire(name=name, token=token, duration=60)):
                pass
            order.append(got)
            assert await backend.release(name=name, token=token)
            return got

        for turn in range(10):
            order: list[int] = []
            await asyncio.gather(*(life(f"lock:{turn}", number) for number in range(20)))
            assert order == sorted({*order})


async def test_names_are_stored_and_never_meet(
    backend: PostgresSyncAdapter, postgres_schema: str, other: Any
) -> None:
    names = ["lock:a", "lock:ä", "lock:A", "lock:a ", "lock:%", "x" * 1000, "x" * 1001, "ä" * 5000]
    names += ["ä" * 4999 + "b", "x" * 10_000]
    for name in names:
        assert await backend.acquire(name=name, token="t", duration=60)
    for name in names:
        assert await backend.acquire(name=name, token="other", duration=60) == 0
    stored = [row[0] for row in await other.fetch(f"SELECT name FROM {postgres_schema}.locks")]
    assert len(stored) == len(names)
    assert {*names[:6]} < {*stored}


async def test_the_time_zone_of_a_session_makes_no_difference(
    postgres_url: str, postgres_schema: str
) -> None:
    table = f"{postgres_schema}.locks"
    east = f"{postgres_url}?options=-c%20TimeZone%3DPacific/Kiritimati"
    west = f"{postgres_url}?options=-c%20TimeZone%3DPacific/Pago_Pago"
    async with PostgresProvider(east) as one, PostgresProvider(west) as two:
        zones = [await provider.fetch("SHOW TimeZone") for provider in (one, two)]
        assert zones[0] != zones[1]
        first, second = one.sync(table_name=table), two.sync(table_name=table)
        number = await first.acquire(name="a", token="one", duration=60)
        assert await second.acquire(name="a", token="two", duration=60) == 0
        assert await second.locked(name="a")
        assert await first.acquire(name="a", token="one", duration=0.001) == number
        await asyncio.sleep(0.05)
        assert not await second.locked(name="a")
        assert await second.acquire(name="a", token="two", duration=60) > number
        assert not await first.release(name="a", token="one")
        assert await second.owned(name="a", token="two")


async def test_a_row_that_is_deleted_is_a_lock_that_is_lost(
    backend: PostgresSyncAdapter, postgres_schema: str, other: Any
) -> None:
    async def hold() -> None:
        async with Lock("cart", backend=backend, lease_duration=0.3) as handle:
            await other.execute(f"DELETE FROM {postgres_schema}.locks")
            async with asyncio.timeout(0.3):
                await handle.lost.wait()

    with pytest.raises(LockLostError):
        await hold()
    assert not await backend.locked(name="lock:cart")


async def test_a_leader_survives_the_loss_of_its_connections(
    backend: PostgresSyncAdapter, other: Any, until: Until
) -> None:
    election = LeaderElection(
        "boss", backend=backend, lease_duration=3, renew_deadline=2, retry_interval=0.05
    )
    async with election:
        number = election.fencing_token
        await other.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
            " AND datname = current_database()"
        )
        before = election._until
        await until(lambda: election._until != before, "a renewal")
        assert (election.is_leader(), election.fencing_token) == (True, number)


# Waiters.


async def test_waiters_keep_no_pooled_connection(postgres_url: str, postgres_schema: str) -> None:
    async with PostgresProvider(postgres_url, max_connections=2) as provider:
        backend = provider.sync(table_name=f"{postgres_schema}.locks")
        lock = Lock("cart", backend=backend)
        async with lock:
            waiting = [asyncio.create_task(_once(Lock("cart", backend=backend))) for _ in range(10)]
            async with asyncio.timeout(5):
                for _ in range(50):
                    await asyncio.gather(provider.ping(), provider.ping())
            assert not any(task.done() for task in waiting)
        numbers = await asyncio.gather(*waiting)
        assert numbers == sorted(numbers)  # first come, first served


async def _once(lock: Lock) -> int:
    async with lock as handle:
        return handle.fencing_token


async def test_a_waiter_is_woken_by_another_process_of_the_fleet(
    postgres_url: str, postgres_schema: str, other: Any
) -> None:
    table = f"{postgres_schema}.locks"
    async with PostgresProvider(postgres_url) as one, PostgresProvider(postgres_url) as two:
        holder = Lock("cart", backend=one.sync(table_name=table))
        waiter = Lock("cart", backend=two.sync(table_name=table), retry_interval=NEVER)
        for _ in range(3):
            await holder.acquire()
            waiting = asyncio.create_task(_once(waiter))
            await _until_awaited(other, table)
            await holder.release()
            async with asyncio.timeout(5):
                await waiting


async def _until_awaited(other: Any, table: str) -> None:
    """Wait until a waiter's row says so, and the waiter has asked once more and hears."""
    query = (
        f"SELECT (SELECT cardinality(waiting) > 0 FROM {table}) AND EXISTS ("
        "SELECT FROM pg_stat_activity WHERE query LIKE 'LISTEN%' AND state = 'idle')"
    )
    deadline = monotonic() + 10
    while not await other.fetchval(query):
        assert monotonic() < deadline
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)  # the lease is held: what it asks until then is refused


async def test_a_waiter_is_woken_after_its_connection_was_lost(
    postgres_url: str, postgres_schema: str, other: Any
) -> None:
    table = f"{postgres_schema}.locks"
    async with PostgresProvider(postgres_url) as one, PostgresProvider(postgres_url) as two:
        holder = Lock("cart", backend=one.sync(table_name=table))
        waiter = Lock("cart", backend=two.sync(table_name=table), retry_interval=NEVER)
        await holder.acquire()
        waiting = asyncio.create_task(_once(waiter))
        await _until_awaited(other, table)
        assert await other.fetchval(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
            " WHERE query LIKE 'LISTEN%'"
        )
        await holder.release()
        async with asyncio.timeout(10):
            await waiting


async def test_nobody_is_told_unless_somebody_waits(
    provider: PostgresProvider,
    backend: PostgresSyncAdapter,
    postgres_schema: str,
    other: Any,
    until: Until,
) -> None:
    heard: list[bytes | None] = []
    provider.listen("locks_freed", heard.append)
    await until(lambda: heard, "listening")
    assert await backend.acquire(name="lock:a", token="t", duration=60)
    assert await backend.release(name="lock:a", token="t")
    assert await backend.acquire(name="lock:b", token="t", duration=60)
    waiting = asyncio.create_task(backend.wait(name="lock:b", timeout=60))
    query = f"SELECT waiting FROM {postgres_schema}.locks WHERE name = 'lock:b'"
    while not await other.fetchval(query):
        assert not waiting.done()
    assert await backend.release(name="lock:b", token="t")
    async with asyncio.timeout(5):
        await waiting
    assert heard == [None, f"{backend._waiters.id} lock:b".encode()]


async def test_a_wait_ends_in_time_and_leaves_nothing(backend: PostgresSyncAdapter) -> None:
    await backend.wait(name="lock:a", timeout=60)  # it may be free: nobody listened until now
    started = monotonic()
    await backend.wait(name="lock:a", timeout=0.05)
    assert 0.04 < monotonic() - started < 5
    waiting = asyncio.create_task(backend.wait(name="lock:a", timeout=60))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    assert not backend._waiters


async def test_without_messages_waiters_look_by_themselves(
    postgres_url: str, postgres_schema: str
) -> None:
    async with (
        asyncpg.create_pool(postgres_url, min_size=0, max_size=1) as pool,
        PostgresProvider.from_client(pool) as borrowed,
        PostgresProvider(postgres_url, listen=False, statement_cache_size=0) as deaf,
    ):
        for provider in (borrowed, deaf):
            assert not provider.listen("anything", print)
            backend = provider.sync(table_name=f"{postgres_schema}.locks")
            async with Lock("cart", backend=backend):
                waiting = asyncio.create_task(_once(Lock("cart", backend=backend)))
                assert not (await asyncio.wait([waiting], timeout=0.3))[0]
            async with asyncio.timeout(5):
                await waiting


async def test_a_closed_provider_hears_nothing() -> None:
    closed = PostgresProvider("postgresql://nowhere")
    with pytest.raises(Exception, match="is not open"):
        closed.listen("anything", print)
    closed.unlisten("anything", print)


# The table.


async def test_six_replicas_on_an_empty_database(postgres_url: str, postgres_schema: str) -> None:
    async def replica(number: int) -> int:
        async with PostgresProvider(postgres_url) as provider:
            backend = provider.sync(table_name=f"{postgres_schema}.locks")
            return await backend.acquire(name="lock:a", token=f"t{number}", duration=60)

    numbers = await asyncio.gather(*(replica(number) for number in range(6)))
    assert sum(number > 0 for number in numbers) == 1


async def test_a_table_made_by_hand(
    provider: PostgresProvider, postgres_schema: str, other: Any
) -> None:
    backend = provider.sync(table_name=f"{postgres_schema}.mine", create_schema=False)
    with pytest.raises(LockAcquireError) as error:
        await Lock("cart", backend=backend).acquire_nowait()
    cause = error.value.__cause__
    assert cause is not None
    assert "create_schema=False" in str(cause.__notes__)
    await other.execute(backend.schema)
    await other.execute(backend.schema)  # it may be run again
    async with Lock("cart", backend=backend) as handle:
        assert handle.fencing_token


@pytest.mark.parametrize(
    "name", ["", "a b", "a;b", 'a"', "a.b.c", "ä", "1a", "a" * 56, None, 5, "a.", "a\0"]
)
def test_bad_table_names(name: Any) -> None:
    provider = PostgresProvider("postgresql://nowhere")
    with pytest.raises(SyncSettingsValidationError, match="table_name"):
        provider.sync(table_name=name)


async def test_rows_of_the_past_are_removed(
    backend: PostgresSyncAdapter, postgres_schema: str, other: Any
) -> None:
    for name in ("old", "new", "held"):
        await backend.acquire(name=name, token="t", duration=60)
        await backend.release(name=name, token="t")
    await other.execute(
        f"UPDATE {postgres_schema}.locks SET expires_at = now() - interval '61 minutes'"
        " WHERE name <> 'new'"
    )
    number = await backend.acquire(name="held", token="t", duration=60)
    await backend._sweeper.sweep(backend.provider)
    rows = await other.fetch(f"SELECT name FROM {postgres_schema}.locks ORDER BY name")
    assert [row[0] for row in rows] == ["held", "new"]
    assert await backend.acquire(name="old", token="t", duration=60) > number


async def test_releases_do_not_wait_for_the_disk(
    backend: PostgresSyncAdapter, postgres_schema: str, other: Any
) -> None:
    """One that is lost in a crash ends by itself; a lease that was granted has to be kept."""
    await other.execute(backend.schema)
    await other.execute(f"""
        SET search_path TO {postgres_schema};
        CREATE TABLE commits (token text, how text);
        CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            INSERT INTO {postgres_schema}.commits
            VALUES (NEW.token, current_setting('synchronous_commit'));
            RETURN NULL;
        END $$;
        CREATE CONSTRAINT TRIGGER at_commit AFTER INSERT OR UPDATE ON locks
        DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION note();
    """)
    assert await backend.acquire(name="lock:a", token="one", duration=60)
    assert await backend.hand_over(name="lock:a", token="one", to="two", duration=60)
    assert await backend.release(name="lock:a", token="two")
    assert await backend.acquire(name="lock:a", token="three", duration=60)
    rows = await other.fetch("SELECT token, how FROM commits")
    assert [(row[0], row[1]) for row in rows] == [
        ("one", "on"),
        ("two", "on"),
        (None, "off"),
        ("three", "on"),
    ]


async def test_a_release_comes_after_a_cancelled_request_that_is_under_way(
    backend: PostgresSyncAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pool's connections overtake each other."""
    assert await backend.acquire(name="cart", token="before", duration=60)
    asked, open_now = asyncio.Event(), asyncio.Event()
    fetch = backend.provider.fetch

    async def slow(query: str, *args: object, **options: Any) -> Any:
        asked.set()
        await open_now.wait()
        return await fetch(query, *args, **options)

    monkeypatch.setattr(backend.provider, "fetch", slow)
    handing = asyncio.create_task(
        backend.hand_over(name="cart", token="before", to="heir", duration=60)
    )
    await asked.wait()
    handing.cancel()
    await asyncio.wait([handing])
    assert handing.cancelled()
    monkeypatch.setattr(backend.provider, "fetch", fetch)
    releasing = asyncio.create_task(backend.release(name="cart", token="heir"))
    await asyncio.wait([releasing], timeout=0.05)
    assert not releasing.done()
    open_now.set()
    assert await releasing
    assert not await backend.locked(name="cart")


async def test_a_table_of_somebody_else_is_told_from_ours(
    provider: PostgresProvider, postgres_schema: str, other: Any
) -> None:
    await other.execute(f"CREATE TABLE {postgres_schema}.locks (name text PRIMARY KEY, token text)")
    backend = provider.sync(table_name=f"{postgres_schema}.locks")
    with pytest.raises(LockAcquireError) as taking:
        await Lock("cart", backend=backend).acquire_nowait()
    with pytest.raises(LockLockedCheckError) as looking:
        await Lock("cart", backend=backend).locked()
    for error in (taking.value, looking.value):
        assert error.__cause__ is not None
        assert "table_name=" in str(error.__cause__.__notes__)
