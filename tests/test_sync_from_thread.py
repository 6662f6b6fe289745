"""Async and synchronous routes that share a lock, in a web application under a real server."""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from grelmicro import Grelmicro
from grelmicro.errors import BackendNotOpenError
from grelmicro.providers import from_url
from grelmicro.sync import LeaderElection, Lock, LockLostError, LockNotOwnedError, TaskLock
from grelmicro.sync.memory import MemorySyncAdapter

lock = Lock("cart")
inside: list[str] = []
most: list[int] = []


async def async_route(_: Request) -> PlainTextResponse:
    async with lock:
        inside.append("async")
        most.append(len(inside))
        await asyncio.sleep(0.002)
        inside.pop()
    return PlainTextResponse("async")


def sync_route(_: Request) -> PlainTextResponse:  # runs in a worker thread
    with lock.from_thread:
        inside.append("sync")
        most.append(len(inside))
        time.sleep(0.002)
        inside.pop()
    return PlainTextResponse("sync")


def application(micro: Grelmicro) -> Starlette:
    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncGenerator[None]:
        async with micro:  # opens every registered adapter
            yield

    routes = [Route("/async-route", async_route), Route("/sync-route", sync_route)]
    return Starlette(routes=routes, lifespan=lifespan)


@asynccontextmanager
async def served(app: Starlette) -> AsyncGenerator[str]:
    """The address of the application under uvicorn, on this loop."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
    task = asyncio.create_task(server.serve())
    deadline = time.monotonic() + 30
    while not server.started:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    await task


def adapter(request: pytest.FixtureRequest, kind: str) -> list[Any]:
    if kind == "memory":
        return [MemorySyncAdapter()]
    provider: Any = from_url(request.getfixturevalue(f"{kind}_url"))
    space = request.getfixturevalue("redis_prefix" if kind == "redis" else "postgres_schema")
    options = {"prefix": space} if kind == "redis" else {"table_name": f"{space}.locks"}
    return [provider, provider.sync(**options)]


@pytest.mark.parametrize("kind", ["memory", "redis", "postgres"])
async def test_async_and_sync_routes_share_a_lock(
    kind: str, request: pytest.FixtureRequest
) -> None:
    most.clear()
    async with (
        served(application(Grelmicro(uses=adapter(request, kind)))) as address,
        httpx.AsyncClient(base_url=address, timeout=30) as client,
    ):
        paths = ["/async-route", "/sync-route"] * 20
        answers = await asyncio.gather(*(client.get(path) for path in paths))
    assert [answer.text for answer in answers] == ["async", "sync"] * 20
    assert most == [1] * 40


@pytest.mark.parametrize("kind", ["memory", "redis", "postgres"])
def test_nothing_is_done_from_a_thread_before_it_is_open(
    kind: str, request: pytest.FixtureRequest
) -> None:
    backend = adapter(request, kind)[-1]
    with pytest.raises(BackendNotOpenError, match="not open"):
        Lock("cart", backend=backend).from_thread.acquire()
    with pytest.raises(BackendNotOpenError, match="not open"):
        TaskLock("job", backend=backend).from_thread.__enter__()
    with pytest.raises(BackendNotOpenError, match="not open"):
        LeaderElection("boss", backend=backend).from_thread.__enter__()
    with pytest.raises(AttributeError):  # what it is, too
        Lock("cart", backend=backend).from_thread.locked()


@pytest.mark.parametrize("kind", ["memory", "redis", "postgres"])
async def test_the_thread_of_the_loop_is_refused(kind: str, request: pytest.FixtureRequest) -> None:
    async with Grelmicro(uses=adapter(request, kind)):
        with pytest.raises(RuntimeError, match="would block the event loop"):
            Lock("cart").from_thread.acquire()
        with pytest.raises(RuntimeError, match="would block the event loop"):
            TaskLock("job").from_thread.__enter__()
        assert not await Lock("cart").locked()
        with pytest.raises(RuntimeError, match="would block the event loop"):
            LeaderElection("boss").from_thread.wait_for_leader()


@pytest.mark.parametrize("kind", ["memory", "redis", "postgres"])
async def test_a_thread_leads(kind: str, request: pytest.FixtureRequest) -> None:
    election = LeaderElection("boss", lease_duration=2, renew_deadline=1, retry_interval=0.05)

    def lead() -> int:
        with election.from_thread as elected:
            elected.wait_for_leader(timeout=5)
            with elected.guard() as token:
                assert election.is_leader()
            with pytest.raises(TimeoutError):
                elected.wait_lose_leader(timeout=0.01)
        elected.wait_lose_leader(timeout=0)
        with pytest.raises(TimeoutError):
            elected.wait_for_leader(timeout=0.01)
        with pytest.raises(LockNotOwnedError), elected.guard():
            pass
        return token

    async with Grelmicro(uses=adapter(request, kind)):
        assert 0 < await asyncio.to_thread(lead) < await asyncio.to_thread(lead)
    assert not election.is_running()


async def test_a_thread_that_does_not_lead_any_more_is_told() -> None:
    backend = MemorySyncAdapter()
    election = LeaderElection(
        "boss", backend=backend, lease_duration=2, renew_deadline=1, retry_interval=0.02
    )

    def lead() -> None:
        with election.from_thread as elected, elected.guard():
            backend._leases.clear()
            elected.wait_lose_leader(timeout=5)

    async with backend:
        with pytest.raises(LockLostError):
            await asyncio.to_thread(lead)
