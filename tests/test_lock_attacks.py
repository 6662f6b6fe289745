"""Locks under forks, wrong clocks, lost connections and crowds, on real servers."""

import asyncio
import sys
from asyncio.subprocess import PIPE
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from lock_fleet import Fleet
from redis.asyncio import Redis
from test_lock_processes import go, line_of, start

from grelmicro.errors import OutOfContextError
from grelmicro.sync import Lock, LockTimeoutError, WouldBlockError
from grelmicro.sync._local import local_of

HERE = Path(__file__).parent


async def ask(fleet: Fleet, command: list[Any], query: str, *args: Any) -> Any:
    """What another client is told."""
    if fleet.kind == "redis":
        client: Any = Redis.from_url(fleet.url)
        async with client:
            return await client.execute_command(*command)
    connection = await asyncpg.connect(fleet.url)
    try:
        return await connection.fetchval(query, *args)
    finally:
        await connection.close()


async def in_line(fleet: Fleet, name: str) -> list[Any]:
    """The processes that stand in the server's line for a lock."""
    query = f"SELECT waiting FROM {fleet.space}.locks WHERE name = $1"
    found = await ask(fleet, ["ZRANGE", f"{fleet.space}queue:{name}", 0, -1], query, name)
    return [*found]


async def end_all_connections(fleet: Fleet) -> None:
    query = (
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
        "WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
    )
    await ask(fleet, ["CLIENT", "KILL", "TYPE", "NORMAL", "SKIPME", "YES"], query)
    if fleet.kind == "redis":
        await ask(fleet, ["CLIENT", "KILL", "TYPE", "PUBSUB"], query)


async def test_a_child_of_a_thread_that_holds_it_is_told_to_open_its_own(fleet: Fleet) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, HERE / "lock_forked.py", fleet.url, fleet.space), stdout=PIPE
    )
    try:
        assert (await line_of(process)).startswith("BackendNotOpenError: ")
        assert await line_of(process) == "still owned: True"
        assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()


async def test_clocks_that_are_wrong_make_no_difference(fleet: Fleet, tmp_path: Path) -> None:
    (tmp_path / "count").write_text("0")
    async with AsyncExitStack() as stack:
        fixed = (HERE / "lock_skewed.py", fleet.url, fleet.space, tmp_path)
        workers = [await start(stack, *fixed, hours) for hours in (-1, 0, 1)]
        for process in workers:
            go(process)
        assert [await line_of(process) for process in workers] == ["counted"] * 3
    assert (tmp_path / "count").read_text() == "120"


async def test_connections_that_the_server_ends_are_no_lost_lease(own_fleet: Fleet) -> None:
    backend = await own_fleet.backend()
    lock = Lock("cart", backend=backend, lease_duration=1)
    async with lock as handle:
        for _ in range(6):  # two leases long
            await end_all_connections(own_fleet)
            await asyncio.sleep(0.35)
        assert await lock.owned()
        assert not handle.lost.is_set()


async def test_who_gives_up_leaves_no_place_in_the_line(fleet: Fleet) -> None:
    holder, other = await fleet.backend(), await fleet.backend()
    async with Lock("cart", backend=holder):
        waiting = asyncio.create_task(Lock("cart", backend=other).acquire(timeout=5))
        async with asyncio.timeout(4):
            while not await in_line(fleet, "lock:cart"):  # noqa: ASYNC110  # no event tells
                await asyncio.sleep(0.01)
            waiting.cancel()
            await asyncio.wait([waiting])
            while await in_line(fleet, "lock:cart"):  # noqa: ASYNC110  # the same
                await asyncio.sleep(0.01)


async def test_who_waits_while_it_is_closed_is_told_and_leaves_nothing(fleet: Fleet) -> None:
    before = asyncio.all_tasks()
    async with AsyncExitStack() as stack:
        backend = await fleet._replace(stack=stack).backend()
        await Lock("cart", backend=backend).acquire()
        waiting = [asyncio.create_task(Lock("cart", backend=backend).acquire()) for _ in range(5)]
        async with asyncio.timeout(10):
            while not await in_line(fleet, "lock:cart"):  # noqa: ASYNC110  # no event tells
                await asyncio.sleep(0.01)
    async with asyncio.timeout(10):
        answers = await asyncio.gather(*waiting, return_exceptions=True)
        assert {type(answer) for answer in answers} == {OutOfContextError}
        while asyncio.all_tasks() != before:  # noqa: ASYNC110  # the same
            await asyncio.sleep(0.01)


async def test_a_renewal_that_meets_a_release_takes_nothing_anew(fleet: Fleet) -> None:
    proxy = await fleet.proxy()
    backend = await fleet.backend(proxy.url_for(fleet.url))
    local = local_of(backend)
    lock = Lock("cart", backend=backend, lease_duration=30)
    for delay in (0, 0.001, 0.002, 0.005):
        for _ in range(10):
            async with lock:
                lock._holds[_here()].renew_at = 0
                local._tick()
                await asyncio.sleep(0)
                proxy.delay(delay)
            proxy.heal()
    async with asyncio.timeout(10):
        while local._tasks:
            await asyncio.wait([*local._tasks])
    assert not await backend.locked(name="lock:cart")


async def test_a_crowd_that_gives_up_leaves_nothing(fleet: Fleet) -> None:
    backend = await fleet.backend()
    async with Lock("cart", backend=backend):
        for _ in range(3):
            crowd = (Lock("cart", backend=backend).acquire(timeout=0.01) for _ in range(500))
            answers = await asyncio.gather(*crowd, return_exceptions=True)
            assert {type(answer) for answer in answers} == {LockTimeoutError}
        with pytest.raises(WouldBlockError):
            await Lock("cart", backend=backend).acquire_nowait()
    local = local_of(backend)
    assert not local.queues.lines
    assert not local.queues.fronts
    assert not local._holds
    async with asyncio.timeout(10):
        while local._tasks:
            await asyncio.wait([*local._tasks])
    assert not len(backend._waiters)
    assert len(backend._waiters._rooms) <= 1


def _here() -> Any:
    return asyncio.current_task()
