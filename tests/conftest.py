"""What the tests of the whole share: the scripts, and fleets of processes with one server."""

import sys
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

sys.path += [str(Path(__file__).parents[1]), str(Path(__file__).parent)]

from lock_fleet import Fleet  # its folder has to be known first


@pytest.fixture(params=["redis", "postgres"])
async def fleet(request: pytest.FixtureRequest) -> AsyncGenerator[Fleet]:
    """The session's server."""
    kind = request.param
    server = request.getfixturevalue(f"{kind}_server")
    space = request.getfixturevalue("redis_prefix" if kind == "redis" else "postgres_schema")
    async with AsyncExitStack() as stack:
        yield Fleet(kind, server, space, stack)


@pytest.fixture(params=["redis", "postgres"])
async def own_fleet(request: pytest.FixtureRequest) -> AsyncGenerator[Fleet]:
    """A server that the test may stop."""
    server = request.getfixturevalue(f"own_{request.param}")
    async with AsyncExitStack() as stack:
        yield Fleet(request.param, server, "a:" if request.param == "redis" else "public", stack)
