"""Injection into views of FastAPI, beside its own dependencies."""

from collections.abc import AsyncIterator
from typing import Annotated, Any

import httpx
import pytest
from fastapi import APIRouter, Depends, FastAPI, WebSocket
from pydantic import BaseModel
from websockets.asyncio.client import connect

from grelmicro.errors import OutOfContextError
from grelmicro.inject import Container
from grelmicro.starlette import Provided, install


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
