"""Pytest fixtures: `redis_url own_redis postgres_url own_postgres fault_proxy` and more.

Every pytest run with grelmicro-testing loads this module, so all else loads on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from grelmicro.testing.proxy import FaultProxy
    from grelmicro.testing.servers import PostgresServer, RedisCluster, RedisSentinel, RedisServer

Given = TypeVar("Given")


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """A Redis for the whole session, from the ladder. Shared: never kill it."""
    from grelmicro.testing.servers import redis_server as climb

    with _given(climb) as server:
        yield server


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """The URL of the session's Redis."""
    return redis_server.url


@pytest.fixture
def redis_prefix(redis_url: str) -> Iterator[str]:
    """A key prefix of this test's own, ending in a colon; its keys are removed afterwards."""
    from uuid import uuid4

    from grelmicro.testing.servers._resp import remove_keys

    prefix = f"grelmicro-test:{uuid4().hex}:"
    yield prefix
    remove_keys(redis_url, prefix)


@pytest.fixture
def own_redis() -> Iterator[RedisServer]:
    """A Redis for this test alone, that may be killed, paused and restarted."""
    from grelmicro.testing.servers import redis_server as climb

    with _given(lambda: climb(own=True)) as server:
        yield server


@pytest.fixture
def own_redis_cluster() -> Iterator[RedisCluster]:
    """A cluster for this test alone: three primaries, and then a replica of each."""
    from grelmicro.testing.servers import redis_cluster

    with _given(lambda: redis_cluster(replicas=1)) as cluster:
        yield cluster


@pytest.fixture
def own_redis_sentinel() -> Iterator[RedisSentinel]:
    """A primary, its replica and a sentinel, for this test alone."""
    from grelmicro.testing.servers import redis_sentinel

    with _given(redis_sentinel) as watched:
        yield watched


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A Postgres for the whole session, from the ladder. Shared: never kill it."""
    from grelmicro.testing.servers import postgres_server as climb

    with _given(climb) as server:
        yield server


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> str:
    """The URL of the session's Postgres."""
    return postgres_server.url


@pytest.fixture
def postgres_schema(postgres_url: str) -> Iterator[str]:
    """The name of a schema of this test's own, which needs no quotes; it is removed afterwards."""
    from uuid import uuid4

    from grelmicro.testing.servers._sql import run_sql

    name = f"grelmicro_test_{uuid4().hex}"
    run_sql(postgres_url, f"CREATE SCHEMA {name}")
    yield name
    run_sql(postgres_url, f"DROP SCHEMA {name} CASCADE")


@pytest.fixture
def own_postgres() -> Iterator[PostgresServer]:
    """A Postgres for this test alone, that may be killed, paused and restarted."""
    from grelmicro.testing.servers import postgres_server as climb

    with _given(lambda: climb(own=True)) as server:
        yield server


@pytest.fixture
def fault_proxy(redis_server: RedisServer) -> FaultProxy:
    """A proxy in front of the session's Redis, for `async with`."""
    from grelmicro.testing.proxy import FaultProxy

    return FaultProxy(redis_server.host, redis_server.port)


def _given(climb: Callable[[], Given]) -> Given:
    """Return what it gives; skip or fail where no server is there."""
    from grelmicro.testing.servers import ServerUnavailableError

    try:
        return climb()
    except ServerUnavailableError as error:
        if error.required:
            pytest.fail(str(error), pytrace=False)
        pytest.skip(str(error))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what to install for the tests that were skipped, whatever the verbosity."""
    reasons = [report.longrepr for report in terminalreporter.stats.get("skipped", ())]
    texts = {str(reason[2]) for reason in reasons if isinstance(reason, tuple)}
    for text in sorted(text for text in texts if "GRELMICRO_REQUIRE=" in text):
        terminalreporter.section("tests skipped for want of a server", yellow=True)
        terminalreporter.line(text.removeprefix("Skipped: "))
