"""The cache in its table: keys, clocks, batches, replicas, expired rows."""

import asyncio
import random
from typing import Any

import asyncpg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grelmicro.cache import CacheError, CacheSettingsValidationError, JsonSerializer, TTLCache
from grelmicro.cache._postgres_keys import LONGEST, beyond, head, stored
from grelmicro.cache.postgres import PostgresCacheAdapter
from grelmicro.errors import OutOfContextError
from grelmicro.providers._postgres_batches import Batches
from grelmicro.providers.postgres import PostgresProvider
from grelmicro.testing.proxy import FaultProxy
from grelmicro.testing.servers import PostgresServer

# Keys.

NAMES = st.one_of(
    st.binary(max_size=5),
    st.builds(lambda size, end: b"x" * size + end, st.integers(960, 1010), st.binary(max_size=3)),
)


@settings(max_examples=500)
@given(NAMES, NAMES)
def test_no_two_names_are_stored_alike(one: bytes, other: bytes) -> None:
    assert (stored(one) == stored(other)) == (one == other)
    assert (stored(one)[0] == stored(other)[0]) == (one == other)
    assert len(stored(one)[0]) <= LONGEST


@settings(max_examples=500)
@given(st.text(max_size=4), st.integers(0, 1100), st.text(max_size=3))
def test_the_borders_of_a_beginning_are_exact(text: str, fill: int, end: str) -> None:
    beginning = (text + "x" * fill + "k").encode()
    name = beginning + end.encode()
    assert beginning <= name < beyond(beginning)
    assert head(beginning) <= stored(name)[0] < beyond(head(beginning))
    assert not beginning <= beginning[:-1] + b"j" + end.encode() < beyond(beginning)


@pytest.mark.parametrize("size", [960, 998, 999, 1000, 1100, 50_000])
async def test_long_keys_are_told_apart_and_cleared_by_their_beginning(
    size: int, adapter: PostgresCacheAdapter
) -> None:
    noise = "".join(random.Random(1).choices("abcdefgh", k=size))  # what does not compress
    keys = [noise, noise + "1", noise + "2", noise[:-1] + "z"]
    await adapter.set_many(entries={key: key[-3:].encode() for key in keys}, ttl=60)
    assert await adapter.get_many(keys=keys) == {key: key[-3:].encode() for key in keys}
    await adapter.clear(prefix=noise)
    assert [key[-3:] for key in keys if await adapter.get(key=key)] == [noise[-3:-1] + "z"]


async def test_prefixes_share_a_table_without_meeting(
    provider: PostgresProvider, postgres_schema: str
) -> None:
    prefixes = ["", "a", "ab", "a:", "é", "%", "x" * 200]
    adapters = {
        prefix: provider.cache(table_name=f"{postgres_schema}.t", prefix=prefix)
        for prefix in prefixes
    }
    keys = ["k", "ak", "bk", "a\0k", ":k"]
    for prefix, adapter in adapters.items():
        await adapter.set_many(entries={key: (prefix + "/" + key).encode() for key in keys}, ttl=60)
    for prefix, adapter in adapters.items():
        expected = {key: (prefix + "/" + key).encode() for key in keys}
        assert await adapter.get_many(keys=keys) == expected
    await adapters["a"].clear()
    assert [p for p in prefixes if not await adapters[p].get_many(keys=keys)] == ["a"]


@pytest.mark.parametrize(
    "name", ["", "a b", 'a"', "a;--", "a.b.c", ".a", "a.", "1a", "é", "x" * 53, "a\0", None, 7]
)
def test_a_table_name_that_cannot_be_used_is_refused(name: Any) -> None:
    provider = PostgresProvider(host="x")
    with pytest.raises(CacheSettingsValidationError, match="table_name: "):
        provider.cache(table_name=name)


@pytest.mark.parametrize("prefix", ["a\0", "x" * 201, None, b"a"])
def test_a_prefix_that_cannot_be_used_is_refused(prefix: Any) -> None:
    with pytest.raises(CacheSettingsValidationError, match="prefix: "):
        PostgresProvider(host="x").cache(prefix=prefix)


async def test_the_longest_names_and_reserved_words_will_do(
    provider: PostgresProvider, postgres_schema: str
) -> None:
    for name in ("x" * 52, "user", "Select"):
        adapter = provider.cache(table_name=f"{postgres_schema}.{name}")
        await adapter.set(key="k", value=name.encode(), ttl=60)
        assert await adapter.get(key="k") == name.encode()


# The table.


async def test_nothing_is_made_before_something_is_stored(
    adapter: PostgresCacheAdapter, postgres_schema: str, other: Any
) -> None:
    async with adapter:
        assert await adapter.get(key="k") is None
        assert await adapter.get_with_ttl(key="k") is None
        assert await adapter.get_many(keys=["k"]) == {}
        assert await adapter.touch(key="k", ttl=60) is False
        await adapter.delete(key="k")
        await adapter.delete_many(keys=["k"])
        await adapter.clear()
        assert await other.fetchval("SELECT to_regclass($1)", f"{postgres_schema}.cache") is None
        await adapter.set(key="k", value=b"v", ttl=60)
        assert await adapter.get(key="k") == b"v"


@pytest.mark.parametrize("unlogged", [True, False])
async def test_the_table_has_a_log_or_none(
    unlogged: bool, provider: PostgresProvider, postgres_schema: str, other: Any
) -> None:
    table = f"{postgres_schema}.t"
    await provider.cache(table_name=table, unlogged=unlogged).set(key="k", value=b"v", ttl=60)
    kind = "SELECT relpersistence::text FROM pg_class WHERE oid = to_regclass($1)"
    assert await other.fetchval(kind, table) == ("u" if unlogged else "p")


async def test_by_hand_means_by_hand(
    provider: PostgresProvider, postgres_schema: str, other: Any
) -> None:
    adapter = provider.cache(table_name=f"{postgres_schema}.t", create_schema=False)
    with pytest.raises(asyncpg.UndefinedTableError) as caught:
        await adapter.get(key="k")
    assert any("create_schema=False" in note for note in caught.value.__notes__)
    with pytest.raises(CacheError):
        await TTLCache(backend=adapter).set("k", b"v")
    assert await other.fetchval("SELECT to_regclass($1)", f"{postgres_schema}.t") is None
    await other.execute(adapter.schema)
    await adapter.set(key="k", value=b"v", ttl=60)
    assert await adapter.get(key="k") == b"v"


async def test_replicas_that_begin_at_once_do_not_meet(
    postgres_url: str, postgres_schema: str
) -> None:
    async def replica(number: int, table: str) -> bytes | None:
        async with PostgresProvider(postgres_url, max_connections=2) as provider:
            adapter = provider.cache(table_name=f"{postgres_schema}.{table}")
            await adapter.set(key=f"k{number}", value=b"v", ttl=60)
            return await adapter.get(key=f"k{number}")

    for table in ("first", "second", "third"):
        replicas = [replica(number, table) for number in range(8)]
        assert await asyncio.gather(*replicas) == [b"v"] * 8


async def test_a_table_that_is_dropped_is_made_again(
    adapter: PostgresCacheAdapter, postgres_schema: str, other: Any
) -> None:
    for _ in range(2):
        await adapter.set(key="k", value=b"v", ttl=60)
        assert await adapter.get(key="k") == b"v"
        await other.execute(f"DROP TABLE {postgres_schema}.cache")
        assert await adapter.get(key="k") is None


async def test_the_clock_of_the_session_does_not_matter(
    postgres_url: str, postgres_schema: str
) -> None:
    table = f"{postgres_schema}.t"
    async with (
        PostgresProvider(f"{postgres_url}?timezone=Pacific/Kiritimati") as east,
        PostgresProvider(f"{postgres_url}?timezone=Pacific/Midway&datestyle=German") as west,
    ):
        assert (await east.fetch("SHOW timezone"))[0][0] == "Pacific/Kiritimati"
        await east.cache(table_name=table).set(key="k", value=b"v", ttl=60)
        value, left = await west.cache(table_name=table).get_with_ttl(key="k") or (b"", 0)
    assert value == b"v"
    assert 30 < left <= 60


@pytest.mark.parametrize("ttl", [1e-9, -1.0, 1e300, float("inf")])
async def test_a_time_beyond_all_bounds_harms_nobody(
    ttl: float, adapter: PostgresCacheAdapter
) -> None:
    await asyncio.gather(
        adapter.set(key="odd", value=b"v", ttl=ttl), adapter.set(key="k", value=b"v", ttl=60)
    )
    assert await adapter.get(key="k") == b"v"
    if ttl > 1:
        assert await adapter.get(key="odd") == b"v"


async def test_a_value_that_is_no_bytes_is_refused_alone(adapter: PostgresCacheAdapter) -> None:
    text: Any = "text"
    outcomes = await asyncio.gather(
        adapter.set(key="bad", value=text, ttl=60),
        adapter.set(key="k", value=b"v", ttl=60),
        return_exceptions=True,
    )
    assert [type(outcome) for outcome in outcomes] == [TypeError, type(None)]
    assert await adapter.get(key="k") == b"v"


# What travels together.


async def test_what_is_asked_at_once_is_few_statements(
    adapter: PostgresCacheAdapter, provider: PostgresProvider
) -> None:
    asked = 0
    fetch, execute = provider.fetch, provider.execute

    def counting(ask: Any) -> Any:
        def counted(*args: Any, **keywords: Any) -> Any:
            nonlocal asked
            asked += 1
            return ask(*args, **keywords)

        return counted

    await adapter.set(key="k", value=b"v", ttl=60)
    provider.fetch, provider.execute = counting(fetch), counting(execute)  # type: ignore[method-assign]  # the door itself
    names = [f"k{number}" for number in range(400)]
    await asyncio.gather(*(adapter.set(key=n, value=n.encode(), ttl=60) for n in names))
    assert asked == 1
    found = await asyncio.gather(*(adapter.get(key=n) for n in [*names, *names[:50]]))
    assert asked == 2
    assert found == [n.encode() for n in [*names, *names[:50]]]


async def test_the_last_of_several_sets_at_once_stays(adapter: PostgresCacheAdapter) -> None:
    await asyncio.gather(
        *(adapter.set(key="k", value=b"%d" % number, ttl=60) for number in range(300))
    )
    assert await adapter.get(key="k") == b"299"


async def test_batches_that_overlap_do_not_block_each_other(
    postgres_url: str, postgres_schema: str
) -> None:
    table = f"{postgres_schema}.t"
    names = [f"k{number}" for number in range(60)]

    async def replica(seed: int) -> None:
        dice = random.Random(seed)
        async with PostgresProvider(postgres_url, max_connections=3) as provider:
            adapter = provider.cache(table_name=table)
            for _ in range(25):
                some = dice.sample(names, 30)
                await asyncio.gather(
                    adapter.set_many(entries=dict.fromkeys(some, b"v"), ttl=60),
                    *(adapter.set(key=key, value=b"w", ttl=60) for key in dice.sample(names, 30)),
                    adapter.delete_many(keys=dice.sample(names, 30)),
                    adapter.clear(prefix=dice.choice(["k1", "k2", ""])),
                )

    async with PostgresProvider(postgres_url) as provider:
        count = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
        before = (await provider.fetch(count))[0][0]
        await asyncio.gather(*map(replica, range(4)))
        await provider.fetch("SELECT pg_stat_clear_snapshot()")
        assert (await provider.fetch(count))[0][0] == before


async def test_a_batch_has_its_limits_and_its_order() -> None:
    seen: list[list[int]] = []

    async def work(numbers: Any, asked: float) -> list[int]:
        seen.append([*numbers])
        await asyncio.sleep(0)
        return [number * 2 for number in numbers]

    batches = Batches(work, weigh=lambda number: number, most=4, heaviest=10, lanes=1)
    numbers = [1, 2, 3, 4, 1, 1, 1, 1, 1, 50, 5]
    answers = await asyncio.gather(*(batches.ask(number) for number in numbers))
    assert answers == [number * 2 for number in numbers]
    assert seen == [[1, 2, 3, 4], [1, 1, 1, 1], [1], [50], [5]]


async def test_a_failure_goes_to_all_who_asked_and_the_next_ones_are_served() -> None:
    fails = True

    async def work(numbers: Any, asked: float) -> list[int]:
        if fails:
            raise LookupError("no")
        return [*numbers]

    batches: Batches[int, int] = Batches(work)
    outcomes = await asyncio.gather(*map(batches.ask, range(3)), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [LookupError] * 3
    fails = False
    assert await batches.ask(1) == 1


async def test_who_asks_together_gets_an_error_of_ones_own() -> None:
    """What one caller adds to it is nothing that others see."""

    async def work(numbers: Any, asked: float) -> list[int]:
        error = asyncpg.UniqueViolationError(f"{len(numbers)} numbers")
        error.add_note("mind the numbers")
        raise error from OSError("below")

    batches: Batches[int, int] = Batches(work)
    asked = (batches.ask(number) for number in range(3))
    errors: list[Any] = await asyncio.gather(*asked, return_exceptions=True)
    errors[0].add_note("mine")
    errors[0].__cause__ = None
    for error in errors[1:]:
        assert type(error) is asyncpg.UniqueViolationError
        assert (str(error), error.sqlstate) == ("3 numbers", "23505")
        assert error.__notes__ == ["mind the numbers"]
        assert isinstance(error.__cause__, OSError)
        assert error.__traceback__ is not None


async def test_what_cannot_be_copied_reaches_everybody_all_the_same() -> None:
    class OddError(Exception):
        def __init__(self, *, reason: str) -> None:
            super().__init__(reason)

    async def work(numbers: Any, asked: float) -> list[int]:
        raise OddError(reason="odd")

    batches: Batches[int, int] = Batches(work)
    errors = await asyncio.gather(*map(batches.ask, range(3)), return_exceptions=True)
    assert [type(error) for error in errors] == [OddError] * 3


async def test_batches_belong_to_one_loop_at_a_time() -> None:
    release = asyncio.Event()

    async def work(numbers: Any, asked: float) -> list[int]:
        await release.wait()
        return [*numbers]

    batches: Batches[int, int] = Batches(work)
    asked = asyncio.create_task(batches.ask(1))
    await asyncio.sleep(0)

    with pytest.raises(OutOfContextError):
        await asyncio.to_thread(asyncio.run, batches.ask(2))
    release.set()
    assert await asked == 1


async def test_closed_it_says_so(postgres_url: str, postgres_schema: str) -> None:
    async with PostgresProvider(postgres_url) as provider:
        adapter = provider.cache(table_name=f"{postgres_schema}.cache")
        await adapter.set(key="k", value=b"v", ttl=60)
    for operation in (adapter.get(key="k"), adapter.set(key="k", value=b"v", ttl=60)):
        with pytest.raises(OutOfContextError, match="not open"):
            await operation


# Expired rows.


async def test_who_stores_also_sweeps(
    adapter: PostgresCacheAdapter, postgres_schema: str, other: Any
) -> None:
    adapter._sweeper._seconds = 0.05
    await adapter.set_many(entries={f"old{n}": b"v" for n in range(2500)}, ttl=0.001)
    await adapter.set(key="kept", value=b"v", ttl=60)
    count = f"SELECT count(*) FROM {postgres_schema}.cache"
    async with asyncio.timeout(20):
        while await other.fetchval(count) > 1:
            await adapter.set(key="kept", value=b"v", ttl=60)
            await asyncio.sleep(0.01)
    assert await adapter.get(key="kept") == b"v"


async def test_a_sweep_passes_what_others_hold_and_what_was_renewed(
    adapter: PostgresCacheAdapter, postgres_schema: str, other: Any
) -> None:
    await adapter.set_many(entries={"held": b"v", "free": b"v"}, ttl=0.001)
    await asyncio.sleep(0.01)
    async with other.transaction():
        renew = f"UPDATE {postgres_schema}.cache SET expires_at = 'infinity' WHERE key = $1"
        await other.execute(renew, b"\0held")
        await adapter._sweeper.sweep(adapter.provider)
        rows = await other.fetch(f"SELECT key FROM {postgres_schema}.cache")
        assert [row[0] for row in rows] == [b"\0held"]
    await adapter._sweeper.sweep(adapter.provider)
    assert await adapter.get(key="held") == b"v"


async def test_a_sweep_that_fails_is_a_warning(
    adapter: PostgresCacheAdapter, caplog: pytest.LogCaptureFixture
) -> None:
    await adapter._sweeper.sweep(adapter.provider)  # no table yet
    assert "rows that are over stay: UndefinedTableError" in caplog.text


async def test_leaving_ends_the_sweep(
    postgres_server: PostgresServer, postgres_schema: str
) -> None:
    async with (
        FaultProxy(postgres_server.host, postgres_server.port) as proxy,
        PostgresProvider(proxy.url_for(postgres_server.url)) as provider,
        provider.cache(table_name=f"{postgres_schema}.cache") as adapter,
    ):
        adapter._sweeper._seconds = 0.0
        await adapter.set(key="k", value=b"v", ttl=60)
        await adapter.set(key="k", value=b"v", ttl=60)
        assert adapter._sweeper._task is not None
    assert adapter._sweeper._task.done()


async def test_a_crash_empties_the_table_and_it_works_on(own_postgres: PostgresServer) -> None:
    async with PostgresProvider(own_postgres.url) as provider:
        cache: TTLCache[int] = TTLCache(backend=provider.cache(), serializer=JsonSerializer())
        await cache.set("k", 1)
        await asyncio.to_thread(own_postgres.restart)
        assert await cache.get("k") == 1
        own_postgres.kill()
        await asyncio.to_thread(own_postgres.restart)
        assert await cache.get("k") is None
        await cache.set("k", 2)
        assert await cache.get("k") == 2
