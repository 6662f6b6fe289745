"""Pytest fixtures: `micro virtual_clock redis_url postgres_url fault_proxy` and more.

Every pytest run with grelmicro-testing loads this module, so all else loads on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from grelmicro import Grelmicro
    from grelmicro.testing.application import VirtualClock
    from grelmicro.testing.conformance._pytest import Kit, Openings
    from grelmicro.testing.proxy import FaultProxy
    from grelmicro.testing.servers import PostgresServer, RedisCluster, RedisSentinel, RedisServer

Given = TypeVar("Given")

KIT: pytest.StashKey[Kit] = pytest.StashKey()
"""The run of all clauses, where that was asked for."""

_PACKAGE = "grelmicro.testing.conformance"
_FOLDER = ("grelmicro", "testing", "conformance")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add what reports are asked for by."""
    group = parser.getgroup("conformance", "promises of grelmicro's backends")
    group.addoption(
        "--conformance-report", metavar="FILE", help="write what came of each promise, as JSON"
    )
    group.addoption("--conformance-badge", metavar="FILE", help="write an endpoint for shields.io")


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(parser: pytest.Parser, args: list[str]) -> None:
    """Add the options of the kit's own run; elsewhere their names are free for others."""
    if not any(_PACKAGE in each or "/".join(_FOLDER) in each for each in args):
        return
    group = parser.getgroup("conformance")
    group.addoption(
        "--provider",
        action="append",
        metavar="NAME",
        help="a provider's name, or a URL; may be given again; by default all that are installed",
    )
    group.addoption("--level", metavar="VERSION", help="the contract's version to hold it to")
    group.addoption(
        "--require", action="store_true", help="a server that is not there is a failure"
    )
    group.addoption("--conformance-fast", action="store_true", help="leave slow promises out")


def pytest_configure(config: pytest.Config) -> None:
    """Begin the kit's run, and gather what comes of promises where anybody wants to know."""
    is_kit = hasattr(config.option, "conformance_fast")
    if is_kit or config.option.conformance_report or config.option.conformance_badge:
        from grelmicro.testing.conformance._pytest import Kit, Reporter

        if is_kit:
            config.stash[KIT] = Kit(config)
        config.pluginmanager.register(Reporter(config, config.stash.get(KIT, None)))


def pytest_collection(session: pytest.Session) -> None:
    """Find what the kit is to test."""
    if KIT in session.config.stash:
        session.config.stash[KIT].prepare()


def pytest_unconfigure(config: pytest.Config) -> None:
    """End what the kit has started."""
    if KIT in config.stash:
        config.stash[KIT].close()


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave the kit's own tests alone where others are run."""
    is_own = collection_path.name == "test_promises.py" and collection_path.parts[-4:-1] == _FOLDER
    return True if is_own and KIT not in config.stash else None


@pytest.fixture(scope="session")
def conformance_openings(pytestconfig: pytest.Config) -> Openings:
    """Which backends under test open, and which do not."""
    from grelmicro.testing.conformance._pytest import Openings

    return Openings(required=getattr(pytestconfig.option, "require", False))


@pytest.fixture
def micro() -> Iterator[Grelmicro]:
    """An app on memory, opened: the one that primitives without a `backend` find."""
    from grelmicro.testing.application import app_on_memory

    with app_on_memory() as app:
        yield app


@pytest.fixture
def virtual_clock(monkeypatch: pytest.MonkeyPatch) -> VirtualClock:
    """The clock of the backends in memory; ask for it before those are made."""
    from grelmicro.testing.application import VirtualClock

    clock = VirtualClock()
    clock.take_over(monkeypatch)
    return clock


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
