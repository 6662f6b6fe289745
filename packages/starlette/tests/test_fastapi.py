"""Injection into views of FastAPI, beside its own dependencies."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from inspect import signature
from typing import Annotated, Any

import httpx
import pytest
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request, WebSocket
from pydantic import BaseModel
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from websockets.asyncio.client import connect

from grelmicro.errors import OutOfContextError
from grelmicro.inject import Container, GraphError, useprovider
from grelmicro.starlette import Provided, install, streaming


class Store:
    def __init__(self) -> None:
        self.notes: list[str] = []


class Note(BaseModel):
    text: str


@pytest.fixture
def container() -> Container:
    return Container()


@pytest.fixture
def app(container: Container) -> FastAPI:
    """An application with every sort of view."""
    steps: list[str] = []

    @container.provider(scope="app")
    async def store() -> Store:
        return Store()

    @container.provider
    async def transaction(store: Store) -> AsyncIterator[list[str]]:
        pending: list[str] = []
        try:
            yield pending
        except ValueError:
            steps.append("rolled back")
            raise
        store.notes += pending

    async def user(name: str = "nobody") -> str:
        return name

    app = FastAPI()
    app.state.steps = steps

    @app.post("/notes/{pk}")
    async def create(
        pk: int,
        note: Note,
        user: Annotated[str, Depends(user)],
        transaction: Annotated[list[str], Provided()],
    ) -> dict[str, Any]:
        if not note.text:
            raise ValueError("empty")
        transaction.append(f"{user}: {note.text}")
        return {"pk": pk}

    router = APIRouter(prefix="/sync")

    @router.get("/notes")
    def notes(store: Annotated[Store, Provided()]) -> list[str]:
        return store.notes

    app.include_router(router)

    @app.websocket("/feed/{room}")
    async def feed(websocket: WebSocket, room: str, store: Annotated[Store, Provided()]) -> None:
        await websocket.accept()
        await websocket.send_json([room, *store.notes])
        await websocket.close()

    return app


async def test_all_of_it(app: FastAPI, container: Container, serve: Any) -> None:
    install(app, container=container)
    async with serve(app) as client:
        made = await client.post("/notes/7?name=ada", json={"text": "tea"})
        assert (made.status_code, made.json()) == (200, {"pk": 7})
        assert (await client.get("/sync/notes")).json() == ["ada: tea"]
        assert (await client.post("/notes/x", json={"text": "tea"})).status_code == 422
        assert (await client.post("/notes/7", json={"text": ""})).status_code == 500
        assert app.state.steps == ["rolled back"]
        assert (await client.get("/sync/notes")).json() == ["ada: tea"]
        path = client.base_url.copy_with(scheme="ws", path="/feed/tea")
        async with connect(str(path)) as socket:
            assert await socket.recv() == '["tea","ada: tea"]'


async def test_the_schema_knows_nothing_of_what_is_injected(
    app: FastAPI, container: Container
) -> None:
    install(app, container=container)
    async with app.router.lifespan_context(app):
        schema = app.openapi()
    (post,) = (each["post"] for path, each in schema["paths"].items() if path == "/notes/{pk}")
    assert [each["name"] for each in post["parameters"]] == ["pk", "name"]
    assert schema["paths"]["/sync/notes"]["get"].get("parameters", []) == []


async def test_without_install_the_mark_says_what_is_missing(app: FastAPI) -> None:
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://it") as client:
        with pytest.raises(OutOfContextError, match=r"call install\(app\)"):
            await client.get("/sync/notes")


class Replica(Store):
    """Another one of the same type."""


async def test_a_mark_comes_from_where_the_parameter_of_another_view_would(
    container: Container, serve: Any
) -> None:
    primary, replica = Store(), Replica()
    container.add(primary, "store")
    container.add(replica, "replica")

    @container.provider(lazy=True)
    async def late() -> str:
        return "late"

    async def dependency(replica: Annotated[Store, Provided()]) -> Store:
        return replica

    app = FastAPI()

    @app.get("/")
    async def view(
        store: Annotated[Store, Provided()],
        other: Annotated[Store, Provided("replica")],
        third: Annotated[Store, Depends(dependency)],
        only: Annotated[Replica, Provided()],
        late: Annotated[Awaitable[str], Provided()],
    ) -> list[Any]:
        return [store is primary, other is third is only is replica, await late, await late]

    install(app, container=container)
    async with serve(app) as client:
        assert (await client.get("/")).json() == [True, True, "late", "late"]


async def test_what_is_marked_and_missing_is_told_before_the_first_request(
    container: Container,
) -> None:
    router, app = APIRouter(), FastAPI()

    @router.get("/")
    async def view(store: Annotated[Store, Provided()]) -> None:
        raise AssertionError

    app.include_router(router, prefix="/below")
    install(app, container=container)
    with pytest.raises(GraphError, match=r"view'.*test_fastapi.py:\d+.*provides the type Store"):
        async with app.router.lifespan_context(app):
            raise AssertionError


async def test_autouse_runs_for_every_view_once_and_rolls_back(
    container: Container, serve: Any
) -> None:
    steps: list[str] = []

    @container.provider(autouse=True)
    async def transaction(request: Request) -> AsyncIterator[None]:
        steps.append(f"begin {request.url.path}")
        try:
            yield
        except HTTPException:
            steps.append("roll back")
            raise
        steps.append("commit")

    router, app, below = APIRouter(), FastAPI(), FastAPI()

    @app.get("/unmarked")
    async def unmarked() -> None:
        steps.append("view")

    @router.get("/failing")
    def failing(transaction: Annotated[Any, Provided("transaction")]) -> None:
        raise HTTPException(409, "taken")

    @below.get("/view")
    async def mounted() -> None:
        steps.append("mounted")

    async def plain(request: Request, transaction: None) -> Response:
        steps.append("plain")
        return Response()

    router.routes.append(Route("/plain", plain))
    app.include_router(router)
    app.mount("/below", below)
    install(app, container=container)
    for _ in range(2):
        async with serve(app) as client:
            assert (await client.get("/unmarked")).status_code == 200
            assert (await client.get("/failing")).status_code == 409
            assert (await client.get("/below/view")).status_code == 200
            assert (await client.get("/plain")).status_code == 200
            assert (await client.get("/openapi.json")).status_code == 200
        assert steps == [
            *("begin /unmarked", "view", "commit"),
            *("begin /failing", "roll back"),
            *("begin /below/view", "mounted", "commit"),
            *("begin /plain", "plain", "commit"),
        ]
        steps.clear()


async def test_streaming_keeps_what_is_injected(container: Container, serve: Any) -> None:
    steps: list[str] = []
    closed = asyncio.Event()

    @container.provider
    async def session() -> AsyncIterator[str]:
        yield "session"
        steps.append("closed")
        closed.set()

    async def parts(session: str) -> AsyncIterator[str]:
        for _ in range(2):
            steps.append("part")
            yield session

    app = FastAPI()

    @app.get("/late")
    @streaming
    async def late(
        session: Annotated[str, Provided("session")], again: Annotated[str, Provided("session")]
    ) -> Response:
        assert session is again
        return StreamingResponse(parts(session))

    @app.get("/usual")
    async def usual(session: Annotated[str, Provided("session")]) -> Response:
        return StreamingResponse(parts(session))

    install(app, container=container)
    async with serve(app) as client:
        assert (await client.get("/usual")).text == "sessionsession"
        assert steps == ["closed", "part", "part"]
        steps.clear()
        closed.clear()
        assert (await client.get("/late")).text == "sessionsession"
        await asyncio.wait_for(closed.wait(), 10)
    if "scope" in signature(Depends).parameters:  # older ones leave no choice
        assert steps == ["part", "part", "closed"]


async def test_it_is_closed_before_the_response_is_sent(container: Container, serve: Any) -> None:
    @container.provider
    async def transaction() -> AsyncIterator[int]:
        yield 1
        raise OSError("the commit failed")

    app = FastAPI()

    @app.get("/")
    async def view(transaction: Annotated[int, Provided("transaction")]) -> str:
        return "written"

    install(app, container=container)
    async with serve(app) as client:
        assert (await client.get("/")).status_code == 500


async def test_a_mark_can_be_written_once_and_used_in_several_applications(serve: Any) -> None:
    Name = Annotated[str, Provided("name")]
    apps = []
    for name in ("one", "two"):
        container, app = Container(), FastAPI()
        container.add(name, "name")

        @app.get("/")
        async def view(name: Name, again: Name) -> str:
            return name + again

        install(app, container=container)
        apps.append(app)
    async with serve(apps[0]) as one, serve(apps[1]) as two:
        assert ((await one.get("/")).json(), (await two.get("/")).json()) == ("oneone", "twotwo")


async def test_useprovider_runs_for_views_of_fastapi(container: Container, serve: Any) -> None:
    steps: list[str] = []

    @container.provider
    async def audit(request: Request) -> AsyncIterator[None]:
        steps.append(f"audit {request.url.path}")
        yield
        steps.append("audited")

    @container.provider
    async def number() -> int:
        steps.append("number")
        return 7

    app, router = FastAPI(), APIRouter()

    async def depended() -> None:
        steps.append("depended")

    @router.get("/unmarked", dependencies=[Depends(depended)])
    @useprovider("audit")
    async def unmarked() -> str:
        return "unmarked"

    @useprovider(audit)
    @router.get("/marked")
    def marked(number: Annotated[int, Provided()]) -> int:
        return number

    @app.get("/without")
    async def without() -> None: ...

    app.include_router(router)
    install(app, container=container)
    for _ in range(2):
        async with serve(app) as client:
            assert (await client.get("/unmarked")).json() == "unmarked"
            assert (await client.get("/marked")).json() == 7
            await client.get("/without")
        assert steps == [
            *("audit /unmarked", "depended", "audited"),
            *("audit /marked", "number", "audited"),
        ]
        steps.clear()


async def test_useprovider_of_nobody_is_told_at_the_start(container: Container) -> None:
    app = FastAPI()

    @app.get("/")
    @useprovider("missing")
    async def view() -> None: ...

    install(app, container=container)
    with pytest.raises(GraphError, match=r"useprovider: .*missing"):
        async with app.router.lifespan_context(app):
            pass
