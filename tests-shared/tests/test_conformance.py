"""The kit on this project's own backends."""

import inspect
import subprocess
import sys
from collections.abc import Iterator
from uuid import uuid4

import pytest
from redis.asyncio import Redis

from grelmicro.providers.memory import MemoryProvider
from grelmicro.providers.redis import RedisProvider
from grelmicro.testing.conformance import Capability, Clause, Subject, clauses
from grelmicro.testing.servers import redis_cluster, redis_sentinel

MEMORY = Subject("memory", MemoryProvider, options=lambda kind, space: {})


def redis(url: str, prefix: str, multiplex: bool = True) -> Subject:
    return Subject(
        "redis" if multiplex else "redis-client",
        lambda: RedisProvider(url, multiplex=multiplex),
        options=lambda kind, space: {"prefix": f"{prefix}{space}:"},
        guarded=lambda secret: RedisProvider(f"redis://user:{secret}@localhost"),
    )


def redis_client(url: str, prefix: str) -> Subject:
    return redis(url, prefix, multiplex=False)


def borrowed(url: str, prefix: str) -> Subject:
    return Subject(
        "redis-borrowed",
        lambda: RedisProvider.from_client(Redis.from_url(url), own=True),
        options=lambda kind, space: {"prefix": f"{prefix}{space}:"},
    )


@pytest.fixture(scope="module")
def cluster_url() -> Iterator[str]:
    with redis_cluster() as cluster:
        yield cluster.url


@pytest.fixture(scope="module")
def sentinel_url() -> Iterator[str]:
    with redis_sentinel() as sentinel:
        yield sentinel.url


BEYOND = {
    each.id for each in clauses() if {*each.needs} & {Capability.FAULTS, Capability.PROCESSES}
}
"""What `scripts/conform` holds the same servers to."""

NOWHERE_ELSE = BEYOND | {"cache.get_nowait.agrees", "cache.get_nowait.never_suspends"}
ON_A_SERVER = {"sync.wait.wakes", "sync.wait.ends", "sync.hand_over.gives"}
NOT_OFFERED = {
    "memory": {"provider.url.masked"} | ON_A_SERVER | BEYOND,
    "redis": NOWHERE_ELSE,
    "redis-client": NOWHERE_ELSE,
    "redis-borrowed": NOWHERE_ELSE | {"provider.url.masked"},
    "redis-cluster": NOWHERE_ELSE,
    "redis-cluster-client": NOWHERE_ELSE,
    "redis-sentinel": NOWHERE_ELSE,
}
REDIS = {
    "redis": redis,
    "redis-client": redis_client,
    "redis-borrowed": borrowed,
    "redis-cluster": redis,
    "redis-cluster-client": redis_client,
    "redis-sentinel": redis,
}
URLS = {
    "redis-cluster": "cluster_url",
    "redis-cluster-client": "cluster_url",
    "redis-sentinel": "sentinel_url",
}
KINDS = ("provider", "cache", "sync", "ratelimiter", "circuitbreaker")
SUBJECTS = {"memory": MEMORY} | {
    name: make("redis://localhost", "") for name, make in REDIS.items()
}
OFFERED = [
    pytest.param(name, clause, id=f"{name}-{clause.id}")
    for name in SUBJECTS
    for clause in clauses()
    if clause.id not in NOT_OFFERED[name]
]


@pytest.mark.parametrize(("name", "clause"), OFFERED)
def test_kept(name: str, clause: Clause, request: pytest.FixtureRequest) -> None:
    subject = SUBJECTS[name]
    if name in REDIS:
        shared = name not in URLS
        url = request.getfixturevalue(URLS.get(name, "redis_url"))
        prefix = request.getfixturevalue("redis_prefix") if shared else f"{uuid4().hex}:"
        subject = REDIS[name](url, prefix)
    clause.check(subject)


@pytest.mark.parametrize("name", SUBJECTS)
def test_nothing_is_silently_unoffered(name: str) -> None:
    not_offered = {clause.id for clause in clauses() if not clause.offered_by(SUBJECTS[name])}
    assert not_offered == NOT_OFFERED[name]


@pytest.mark.parametrize("clause", clauses(), ids=lambda clause: clause.id)
def test_a_clause_says_what_why_and_how_to_mend_it(clause: Clause) -> None:
    promise, _, advice = clause.text.partition("\n\n")
    assert promise.endswith(".")
    assert advice.count(".") >= 2
    assert clause.kind in KINDS
    assert clause.since == "1.0"
    assert inspect.iscoroutinefunction(clause.function)


def test_the_kit_loads_no_vendor_and_no_hypothesis() -> None:
    code = (
        "import sys; from grelmicro.testing.conformance import clauses; assert clauses();"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "grelmicro" in loaded
    assert not loaded & {"redis", "asyncpg", "hypothesis", "pydantic", "pytest", "pytest_asyncio"}


async def test_a_clause_runs_where_a_loop_runs_already() -> None:
    for clause in clauses("provider"):
        if clause.offered_by(MEMORY):
            clause.check(MEMORY)


def test_kinds_are_told_apart() -> None:
    assert {each.kind for each in clauses()} == {*KINDS}
    assert [each for kind in KINDS for each in clauses(kind)] == [*clauses()]
    assert clauses("breaker") == ()
