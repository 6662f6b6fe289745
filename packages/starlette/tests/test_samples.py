"""The samples that the injection of views was specified by, over real HTTP and WebSocket."""

import asyncio
import json
import sys
import types
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
from redis.asyncio import Redis
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket
from websockets.asyncio.client import connect

from grelmicro.inject import Container, useprovider
from grelmicro.starlette import install


@pytest.fixture
def container() -> Container:
    return Container()


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], str]]:
    """Writes modules into a project of the test's own, in the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    before = {*sys.modules}

    def write(name: str, text: str) -> str:
        (tmp_path / f"{name}.py").write_text(text)
        return name

    yield write
    for name in {*sys.modules} - before:
        if not name.startswith(("grelmicro", "redis", "asyncpg")):
            monkeypatch.delitem(sys.modules, name, raising=False)


def ws(client: httpx.AsyncClient, path: str) -> Any:
    return connect(str(client.base_url.copy_with(scheme="ws", path=path)))


REDIS = """
from redis.asyncio import Redis
from grelmicro.inject import provider
import settings

@provider
async def redis():
    conn = Redis.from_url(settings.REDIS_URL, decode_responses=True)
    yield conn
    await conn.aclose()

@provider
async def hello():
    return "Hello, world!"
"""


async def test_the_redis_cache_view_and_the_feed(
    module: Any, serve: Any, redis_url: str, redis_prefix: str
) -> None:
    module("settings", f"REDIS_URL = {redis_url!r}\n")
    conf = module("myproviders", REDIS)
    key = f"{redis_prefix}some-key"

    async def get_value(req: Request, redis: Any) -> Response:
        value = await redis.get(key)
        if value is None:
            value = 42
            await redis.set(key, value)
        return JSONResponse({"value": int(value)})

    async def value_feed(ws: WebSocket, redis: Any, hello: str) -> None:
        await ws.accept()
        await ws.send_json(hello)
        async for message in ws.iter_json():
            value = await redis.get(message["key"])
            await ws.send_json({"value": value})

    app = Starlette(routes=[Route("/value", get_value), WebSocketRoute("/valuefeed", value_feed)])
    container = Container()
    install(app, container=container, provider_modules=[conf])
    async with serve(app) as client, Redis.from_url(redis_url) as other:
        assert (await client.get("/value")).json() == {"value": 42}
        await other.set(key, 7)
        assert (await client.get("/value")).json() == {"value": 7}
        async with ws(client, "/valuefeed") as socket:
            assert json.loads(await socket.recv()) == "Hello, world!"
            await socket.send(json.dumps({"key": key}))
            assert json.loads(await socket.recv()) == {"value": "7"}


async def test_connected_clients(container: Container, serve: Any) -> None:
    @container.provider(scope="app")
    async def clients() -> set[WebSocket]:
        return set()

    async def echo(ws: WebSocket, clients: set[WebSocket]) -> None:
        await ws.accept()
        clients.add(ws)
        try:
            async for message in ws.iter_text():
                await ws.send_text(f"{message} of {len(clients)}")
        finally:
            clients.remove(ws)

    app = Starlette(routes=[WebSocketRoute("/echo", echo)])
    install(app, container=container)
    async with serve(app) as client:
        async with ws(client, "/echo") as one:
            await one.send("a")
            assert await one.recv() == "a of 1"
            async with ws(client, "/echo") as two:
                await two.send("b")
                assert await two.recv() == "b of 2"
        there = container.values["clients"]
        async with asyncio.timeout(10):
            while there:  # noqa: ASYNC110  # no event tells
                await asyncio.sleep(0.001)


async def test_nested_messages(container: Container, serve: Any) -> None:
    @container.provider
    async def message_format() -> str:
        return "{greeting}, {who}"

    @container.provider
    async def hello_message_format(message_format: str) -> str:
        return message_format.format(greeting="Hello", who="{who}")

    async def hello(req: Request, who: str, hello_message_format: str) -> Response:
        return PlainTextResponse(hello_message_format.format(who=who))

    app = Starlette(routes=[Route("/hello/{who}", hello)])
    install(app, container=container)
    async with serve(app) as client:
        assert (await client.get("/hello/Ada")).text == "Hello, Ada"


async def test_an_autouse_transaction_on_a_real_database(
    container: Container, serve: Any, postgres_url: str, postgres_schema: str
) -> None:
    table = f"{postgres_schema}.notes"
    setup = await asyncpg.connect(postgres_url)
    await setup.execute(f"CREATE TABLE {table} (text text)")

    @container.provider
    async def db() -> AsyncIterator[Any]:
        connection = await asyncpg.connect(postgres_url)
        try:
            yield connection
        finally:
            await connection.close()

    @container.provider(autouse=True)
    async def transaction(db: Any) -> AsyncIterator[None]:
        async with db.transaction():
            yield

    async def create(req: Request, text: str, db: Any) -> Response:
        await db.execute(f"INSERT INTO {table} VALUES ($1)", text)
        if text == "bad":
            raise HTTPException(400, "a bad note")
        return PlainTextResponse("ok")

    app = Starlette(routes=[Route("/{text}", create, methods=["POST"])])
    install(app, container=container)
    async with serve(app) as client:
        assert (await client.post("/groceries")).status_code == 200
        assert (await client.post("/bad")).status_code == 400
        assert (await client.post("/potatoes")).status_code == 200
    rows = await setup.fetch(f"SELECT text FROM {table}")
    await setup.close()
    assert [row["text"] for row in rows] == ["groceries", "potatoes"]


async def test_useprovider_by_name_and_by_reference(container: Container, serve: Any) -> None:
    shown: list[str] = []

    @container.provider(name="show_hello")
    async def provide_show_hello() -> None:
        shown.append("Hello, providers!")

    @container.provider
    async def by_reference() -> None:
        shown.append("by reference")

    @useprovider("show_hello")
    @useprovider(by_reference)
    async def say_hi(req: Request) -> Response:
        return PlainTextResponse("A hello message was printed to the console.")

    app = Starlette(routes=[Route("/hi", say_hi)])
    install(app, container=container)
    async with serve(app) as client:
        await client.get("/hi")
    assert shown == ["Hello, providers!", "by reference"]


async def test_the_sticky_notes_factory(container: Container, serve: Any) -> None:
    @container.provider
    async def notes() -> list[dict[str, Any]]:
        return [{"id": 1, "text": "Groceries"}, {"id": 2, "text": "Make potatoe smash"}]

    @container.provider
    async def get_note(notes: list[dict[str, Any]]) -> Callable[[int], Awaitable[dict[str, Any]]]:
        async def _get_note(pk: int) -> dict[str, Any]:
            note = next((note for note in notes if note["id"] == pk), None)
            if note is None:
                raise HTTPException(404, detail=f"Note with ID {pk} does not exist.")
            return note

        return _get_note

    async def retrieve_note(
        req: Request, pk: int, get_note: Callable[[int], Awaitable[dict[str, Any]]]
    ) -> Response:
        return JSONResponse(await get_note(pk))

    app = Starlette(routes=[Route("/notes/{pk:int}", retrieve_note)])
    install(app, container=container)
    async with serve(app) as client:
        assert (await client.get("/notes/2")).json()["text"] == "Make potatoe smash"
        missing = await client.get("/notes/3")
    assert (missing.status_code, missing.text) == (404, "Note with ID 3 does not exist.")


async def test_lazy_data(container: Container, serve: Any) -> None:
    asked: list[str] = []

    async def random(request: Request) -> Response:
        asked.append("random")
        return JSONResponse({"number": 4})

    async with serve(Starlette(routes=[Route("/random", random)])) as upstream:

        @container.provider(lazy=True)
        async def random_data() -> dict[str, int]:
            found: dict[str, int] = (await upstream.get("/random")).json()
            return found

        async def get_data(req: Request, random_data: Awaitable[dict[str, int]]) -> Response:
            if "no" in req.query_params:
                return PlainTextResponse("not needed")
            return JSONResponse([await random_data, await random_data])

        app = Starlette(routes=[Route("/data", get_data)])
        install(app, container=container)
        async with serve(app) as client:
            assert (await client.get("/data?no")).text == "not needed"
            assert asked == []
            assert (await client.get("/data")).json() == [{"number": 4}, {"number": 4}]
    assert asked == ["random"]


async def test_discovery_from_every_source(
    module: Any, serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = (
        "from grelmicro.inject import provider\n\n@provider\nasync def {0}():\n    return '{0}'\n"
    )
    for name in ("listed", "discovered", "by_variable", "messages"):
        module(name if name == "messages" else f"{name}_module", begin.format(name))
    module(
        "providerconf",
        "import random as _random\n\nfrom grelmicro.inject import provider\n\n\n"
        "@provider\nasync def random() -> float:\n    return _random.random()\n",
    )
    monkeypatch.setenv("PROVIDER_MODULES", "by_variable_module")
    names = "listed, discovered, by_variable, messages, own, random"
    module(
        "application",
        "from starlette.applications import Starlette\n"
        "from starlette.responses import JSONResponse\n"
        "from starlette.routing import Route\n"
        "from grelmicro.inject import Container, provider\n"
        "from grelmicro.starlette import install\n"
        "from messages import messages\n"
        "@provider\nasync def own():\n    return 'own'\n"
        f"async def view(request, {names}):\n"
        f"    return JSONResponse([{names}])\n"
        "container = Container()\n"
        "container.discover_providers('discovered_module')\n"
        "app = Starlette(routes=[Route('/', view)])\n"
        "install(app, container=container, provider_modules=['listed_module'])\n",
    )
    application: types.ModuleType = __import__("application")
    async with serve(application.app) as client:
        *found, number = (await client.get("/")).json()
    assert found == ["listed", "discovered", "by_variable", "messages", "own"]
    assert 0 <= number < 1


async def test_a_module_that_cannot_be_imported_is_told(module: Any) -> None:
    module("broken_module", "import there_is_no_such_module\n")
    app = Starlette()
    install(app, container=Container(), provider_modules=["broken_module"])
    with pytest.raises(ImportError, match="there_is_no_such_module") as failure:
        async with app.router.lifespan_context(app):
            raise AssertionError
    assert "the provider module 'broken_module'" in failure.value.__notes__[0]
