"""The kit on the Postgres backend."""

from collections.abc import Mapping
from typing import Any, Self

import asyncpg
import pytest

from grelmicro.providers.postgres import PostgresProvider
from grelmicro.testing.conformance import Capability, Clause, Subject, clauses

URL = "postgresql://postgres@localhost/postgres"


def space_in(schema: str) -> Any:
    def options(kind: str, space: str) -> Mapping[str, Any]:
        return {"table_name": f"{schema}.{kind}_{space}"}

    return options


def guarded(secret: str) -> PostgresProvider:
    return PostgresProvider(f"postgresql://user:{secret}@localhost/app")


def plain(url: str, schema: str) -> Subject:
    return Subject(
        "postgres", lambda: PostgresProvider(url), options=space_in(schema), guarded=guarded
    )


def pooled(url: str, schema: str) -> Subject:
    """What nothing stays prepared for, in one table whose spaces are prefixes, with a log."""
    return Subject(
        "postgres-unprepared",
        lambda: PostgresProvider(url, statement_cache_size=0),
        options=lambda kind, space: {
            "table_name": f"{schema}.{kind}{'' if kind == 'cache' else space}",
            **({"prefix": space, "unlogged": False} if kind == "cache" else {}),
        },
        guarded=guarded,
    )


def borrowed(url: str, schema: str) -> Subject:
    class Borrowed(PostgresProvider):
        """Around a pool of its own, made on entering: a pool belongs to one loop."""

        def __init__(self) -> None:
            self._start(None)
            self._owns_pool = True

        async def __aenter__(self) -> Self:
            self._pool = asyncpg.create_pool(url, min_size=0)
            return await super().__aenter__()

    return Subject("postgres-borrowed", Borrowed, options=space_in(schema))


SUBJECTS = {"postgres": plain, "postgres-unprepared": pooled, "postgres-borrowed": borrowed}
BEYOND = {
    each.id for each in clauses() if {*each.needs} & {Capability.FAULTS, Capability.PROCESSES}
}
"""What `scripts/conform` holds the same servers to."""

NOWHERE_ELSE = BEYOND | {"cache.get_nowait.agrees", "cache.get_nowait.never_suspends"}
NOT_OFFERED = {
    "postgres": NOWHERE_ELSE,
    "postgres-unprepared": NOWHERE_ELSE,
    "postgres-borrowed": NOWHERE_ELSE | {"provider.url.masked"},
}
OFFERED = [
    pytest.param(name, clause, id=f"{name}-{clause.id}")
    for name in SUBJECTS
    for clause in clauses()
    if clause.id not in NOT_OFFERED[name]
]


@pytest.mark.parametrize(("name", "clause"), OFFERED)
def test_kept(name: str, clause: Clause, postgres_url: str, postgres_schema: str) -> None:
    clause.check(SUBJECTS[name](postgres_url, postgres_schema))


@pytest.mark.parametrize("name", SUBJECTS)
def test_nothing_is_silently_unoffered(name: str) -> None:
    subject = SUBJECTS[name](URL, "public")
    not_offered = {clause.id for clause in clauses() if not clause.offered_by(subject)}
    assert not_offered == NOT_OFFERED[name]
