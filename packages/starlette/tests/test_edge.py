"""Injection into views of Starlette, over HTTP and WebSocket."""

import asyncio
import contextvars
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint, WebSocketEndpoint
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.websockets import WebSocket
from websockets.asyncio.client import connect

from grelmicro import Grelmicro
from grelmicro.cache import Cache
from grelmicro.inject import Container, GraphError, useprovider
from grelmicro.providers.memory import MemoryProvider
from grelmicro.starlette import InstallError, inject, install, streaming


@pytest.fixture
def container() -> Container:
    return Container()


def address(client: httpx.AsyncClient, path: str) -> str:
    return str(client.base_url.copy_with(scheme="ws", path=f"/{path}"))


async def ask(client: httpx.AsyncClient, path: str, *messages: str) -> list[str]:
    async with connect(address(client, path)) as socket:
        answers = []
        for message in messages:
            await socket.send(message)
            answers.append(str(await socket.recv()))
        return answers


class Steps(list[str]):
    """What happened, in order."""


@pytest.fixture
def steps(container: Container) -> Steps:
    """A provider that notes its life, as `resource`."""
    steps = Steps()

    @container.provider
    async def resource() -> AsyncIterator[str]:
        steps.append("open")
        try:
            yield "resource"
        except ValueError as error:
            steps.append(f"failed: {error}")
            raise
        finally:
            steps.append("close")

    return steps


async def test_functions_of_every_sort(container: Container, serve: Any, steps: Steps) -> None:
    async def async_view(whatever: Request, resource: str) -> Response:
        return JSONResponse([resource, whatever.url.path])

    def sync_view(req: Request, resource: str) -> Response:
        with pytest.raises(RuntimeError):
            asyncio.get_running_loop()  # it runs in a thread, as it does without injection
        return PlainTextResponse(resource)

    async def with_path(request: Request, pk: int, resource: str, limit: int = 10) -> Response:
        return JSONResponse([pk + 1, resource, limit])

    async def with_all(request: Request, **found: Any) -> Response:
        return JSONResponse(found)

    async def nothing(request: Request) -> Response:
        return PlainTextResponse("nothing")

    app = Starlette(
        routes=[
            Route("/async", async_view),
            Route("/sync", sync_view),
            Route("/path/{pk:int}", with_path),
            Route("/all/{a}/{b:float}", with_all),
            Route("/nothing", nothing),
        ]
    )
    install(app, container=container)
    async with serve(app) as client:
        assert (await client.get("/async")).json() == ["resource", "/async"]
        assert (await client.get("/sync")).text == "resource"
        assert (await client.get("/path/41")).json() == [42, "resource", 10]
        assert (await client.get("/all/x/1.5")).json() == {"a": "x", "b": 1.5}
        assert (await client.get("/nothing")).text == "nothing"
    assert steps == ["open", "close"] * 3


async def test_class_based_views(container: Container, serve: Any, steps: Steps) -> None:
    class Notes(HTTPEndpoint):
        async def get(self, request: Request, pk: int, resource: str) -> Response:
            return JSONResponse([type(self).__name__, pk, resource])

        def post(self, request: Request, resource: str) -> Response:
            return PlainTextResponse(resource)

    app = Starlette(routes=[Route("/notes/{pk:int}", Notes)])
    install(app, container=container)
    async with serve(app) as client:
        assert (await client.get("/notes/7")).json() == ["Notes", 7, "resource"]
        assert (await client.post("/notes/7")).text == "resource"
        refused = await client.delete("/notes/7")
        assert refused.status_code == 405
        assert refused.headers["allow"].endswith("POST")
    assert steps == ["open", "close"] * 2


async def test_websockets(container: Container, serve: Any, steps: Steps) -> None:
    async def feed(websocket: WebSocket, room: str, resource: str) -> None:
        await websocket.accept()
        async for message in websocket.iter_text():
            await websocket.send_text(f"{room}:{resource}:{message}")

    async def on_connect(self: Any, websocket: WebSocket, resource: str) -> None:
        await websocket.accept()
        steps.append(f"connected to {resource}")

    async def on_receive(self: Any, websocket: WebSocket, data: Any, resource: str) -> None:
        await websocket.send_text(f"{resource}:{data}")

    async def on_disconnect(self: Any, websocket: WebSocket, close_code: int) -> None:
        steps.append(f"left with {close_code}")

    methods = {"on_connect": on_connect, "on_receive": on_receive, "on_disconnect": on_disconnect}
    Echo = type("Echo", (WebSocketEndpoint,), {"encoding": "text", **methods})
    app = Starlette(routes=[WebSocketRoute("/feed/{room}", feed), WebSocketRoute("/echo", Echo)])
    install(app, container=container)
    async with serve(app) as client:
        assert await ask(client, "feed/tea", "a", "b") == ["tea:resource:a", "tea:resource:b"]
        assert await ask(client, "echo", "a", "b") == ["resource:a", "resource:b"]
        while len(steps) < 6:  # noqa: ASYNC110  # no event tells
            await asyncio.sleep(0.001)
    assert steps[:2] == ["open", "close"]
    assert steps[2:] == ["open", "connected to resource", "left with 1000", "close"]


async def test_a_failing_view_rolls_back_and_its_error_is_the_caller_s(
    container: Container, serve: Any, steps: Steps
) -> None:
    async def view(request: Request, resource: str) -> Response:
        raise ValueError("no")

    async def handled(request: Request, error: Exception) -> Response:
        return PlainTextResponse(f"handled {error}", 400)

    app = Starlette(routes=[Route("/", view)], exception_handlers={ValueError: handled})
    install(app, container=container)
    async with serve(app) as client:
        answer = await client.get("/")
    assert (answer.status_code, answer.text) == (400, "handled no")
    assert steps == ["open", "failed: no", "close"]


async def test_what_is_mounted_too(container: Container, serve: Any, steps: Steps) -> None:
    async def view(request: Request, user: str, pk: int, resource: str) -> Response:
        return JSONResponse([user, pk, resource])

    async def other(request: Request) -> Response:
        return PlainTextResponse("its own")

    below = Starlette(routes=[Route("/notes/{pk:int}", view)])
    apart = Starlette(routes=[Route("/", other)])
    install(apart, container=Container())
    app = Starlette(
        routes=[
            Mount("/{user}/below", below),
            Mount("/{user}/routes", routes=[Route("/notes/{pk:int}", view)]),
            Mount("/apart", apart),
        ]
    )
    install(app, container=container)
    async with serve(app) as client:
        for way in ("below", "routes"):
            assert (await client.get(f"/ada/{way}/notes/3")).json() == ["ada", 3, "resource"]
        assert (await client.get("/apart/")).text == "its own"


async def test_below_the_middleware_of_a_route(
    container: Container, serve: Any, steps: Steps
) -> None:
    class Stamp(BaseHTTPMiddleware):
        async def dispatch(self, request: Request, call_next: Any) -> Response:
            answer: Response = await call_next(request)
            answer.headers["x-steps"] = ",".join(steps)
            return answer

    async def view(request: Request, resource: str) -> Response:
        return PlainTextResponse(resource)

    app = Starlette(routes=[Route("/", view, middleware=[Middleware(Stamp)])])
    install(app, container=container)
    async with serve(app) as client:
        answer = await client.get("/")
    assert (answer.text, answer.headers["x-steps"]) == ("resource", "open,close")


def hides(app: Any) -> Any:
    async def hidden(scope: Any, receive: Any, send: Any) -> None:
        await app(scope, receive, send)

    class Hidden:
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            await hidden(scope, receive, send)

    return Hidden()


async def test_a_view_that_is_hidden_needs_inject(container: Container, steps: Steps) -> None:
    async def view(request: Request, resource: str) -> Response:
        return PlainTextResponse(resource)

    app = Starlette(routes=[Route("/", view, middleware=[Middleware(hides)])])
    install(app, container=container)
    with pytest.raises(Exception, match=r"Hidden hides its view; put @inject over the view"):
        async with app.router.lifespan_context(app):
            raise AssertionError
    shown = Starlette(
        routes=[Route("/", inject(view, container=container), middleware=[Middleware(hides)])]
    )
    async with container:
        transport = httpx.ASGITransport(app=shown)
        async with httpx.AsyncClient(transport=transport, base_url="http://it") as client:
            assert (await client.get("/")).text == "resource"


async def test_the_request_can_be_asked_for_by_providers(container: Container, serve: Any) -> None:
    @container.provider
    async def user(request: Request) -> str:
        return request.headers["x-user"]

    @container.provider
    def path(conn: HTTPConnection) -> str:
        return conn.url.path

    @container.provider
    async def connection(http_connection: HTTPConnection) -> list[str]:  # a name people use
        return [http_connection.url.path]

    async def view(req: Request, user: str, path: str, connection: list[str]) -> Response:
        return JSONResponse([user, path, connection])

    async def feed(ws: WebSocket, path: str) -> None:
        await ws.accept()
        await ws.send_text(path)
        await ws.close()

    app = Starlette(routes=[Route("/me", view), WebSocketRoute("/feed", feed)])
    install(app, container=container)
    async with serve(app) as client:
        answer = await client.get("/me", headers={"x-user": "ada"})
        assert answer.json() == ["ada", "/me", ["/me"]]
        async with connect(address(client, "feed")) as socket:
            assert await socket.recv() == "/feed"


async def test_nothing_displaces_what_the_framework_passes(
    container: Container, serve: Any
) -> None:
    @container.provider(name="pk")
    async def provide_pk() -> int:
        raise AssertionError

    @container.provider(name="request")
    async def provide_request() -> Request:
        raise AssertionError

    async def view(request: Request, pk: int) -> Response:
        return JSONResponse([request.url.path, pk])

    app = Starlette(routes=[Route("/{pk:int}", view)])
    install(app, container=container)
    async with serve(app) as client:
        assert (await client.get("/5")).json() == ["/5", 5]


async def test_faults_are_told_before_the_first_request(container: Container) -> None:
    async def view(request: Request, nobody: str) -> Response:
        raise AssertionError

    @useprovider("missing")
    async def other(request: Request) -> Response:
        raise AssertionError

    app = Starlette(routes=[Route("/", view), Route("/other", other)])
    install(app, container=container)
    with pytest.raises(GraphError) as failure:
        async with app.router.lifespan_context(app):
            raise AssertionError
    assert "nobody" in str(failure.value)
    assert "missing" in str(failure.value)
    assert "test_edge.py" in str(failure.value)


def test_what_is_given_in_the_wrong_place_is_named(container: Container) -> None:
    app: Any = Starlette()
    micro: Any = Grelmicro()
    wrong: Any = container
    with pytest.raises(InstallError, match=r"^app: .* not Grelmicro$"):
        install(micro, app)
    with pytest.raises(InstallError, match=r"^micro: .* not Container: .*container="):
        install(app, wrong)
    install(app, container=container)  # nothing of it is left


async def test_it_starts_again_and_again(container: Container, serve: Any, steps: Steps) -> None:
    async def view(request: Request, resource: str) -> Response:
        return PlainTextResponse(resource)

    app = Starlette(routes=[Route("/", view)])
    install(app, container=container)
    for _ in range(3):
        async with serve(app) as client:
            assert (await client.get("/")).text == "resource"
    with pytest.raises(ValueError, match="installed into already"):
        install(app, container=container)


async def test_the_app_s_own_lifespan_is_within(container: Container, serve: Any) -> None:
    steps: list[str] = []

    @container.provider(scope="app")
    async def settings() -> AsyncIterator[str]:
        steps.append("provider opens")
        yield "settings"
        steps.append("provider closes")

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncGenerator[dict[str, str]]:
        steps.append(f"app starts with {container.values['settings']}")
        assert Grelmicro.current() is micro
        yield {"state": "there"}
        steps.append("app ends")

    async def view(request: Request, settings: str) -> Response:
        return JSONResponse([settings, request.state.state])

    micro = Grelmicro(uses=[MemoryProvider()])
    app = Starlette(routes=[Route("/", view)], lifespan=lifespan)
    install(app, micro, container)
    async with serve(app) as client:
        assert (await client.get("/")).json() == ["settings", "there"]
        assert micro.is_open
    assert not micro.is_open
    assert steps == ["provider opens", "app starts with settings", "app ends", "provider closes"]


async def test_a_failed_start_closes_what_was_open(container: Container) -> None:
    steps: list[str] = []

    @container.provider(scope="app")
    async def first() -> AsyncIterator[str]:
        yield "first"
        steps.append("closed")

    @container.provider(scope="app")
    async def second(first: str) -> str:
        raise OSError("the disk is full")

    micro = Grelmicro(uses=[MemoryProvider()])
    app = Starlette()
    install(app, micro, container)
    with pytest.raises(OSError, match="the disk is full"):
        async with app.router.lifespan_context(app):
            raise AssertionError
    assert steps == ["closed"]
    assert not micro.is_open


async def test_components_and_providers_of_the_composer(container: Container, serve: Any) -> None:
    memory = MemoryProvider()
    sessions = Cache(memory, name="sessions")

    async def view(
        request: Request, sessions: Cache, sync: Any, memory: Any, provider: MemoryProvider
    ) -> Response:
        return JSONResponse([repr(sessions), sync.kind, memory is provider])

    app = Starlette(routes=[Route("/", view)])
    install(app, Grelmicro(uses=[memory, sessions]), container)
    async with serve(app) as client:
        assert (await client.get("/")).json() == [repr(sessions), "sync", True]


async def test_what_is_declared_goes_before_what_the_composer_has(
    container: Container, serve: Any
) -> None:
    container.add("mine", "cache")

    async def view(request: Request, cache: Any) -> Response:
        return PlainTextResponse(cache)

    app = Starlette(routes=[Route("/", view)])
    install(app, Grelmicro(uses=[MemoryProvider()]), container)
    async with serve(app) as client:
        assert (await client.get("/")).text == "mine"


async def test_streaming_keeps_what_is_injected(
    container: Container, serve: Any, steps: Steps
) -> None:
    async def parts(resource: str) -> AsyncIterator[str]:
        for number in range(3):
            steps.append(f"part {number}")
            yield f"{resource}{number} "
            await asyncio.sleep(0)

    @streaming
    async def view(request: Request, resource: str) -> Response:
        return StreamingResponse(parts(resource))

    @streaming
    async def broken(request: Request, resource: str) -> Response:
        raise ValueError("before it began")

    async def usual(request: Request, resource: str) -> Response:
        return StreamingResponse(parts(resource))

    app = Starlette(routes=[Route("/late", view), Route("/usual", usual), Route("/broken", broken)])
    install(app, container=container)
    async with serve(app) as client:
        assert (await client.get("/late")).text == "resource0 resource1 resource2 "
        assert steps == ["open", "part 0", "part 1", "part 2", "close"]
        steps.clear()
        await client.get("/usual")
        assert steps == ["open", "close", "part 0", "part 1", "part 2"]
        steps.clear()
        assert (await client.get("/broken")).status_code == 500
        assert steps == ["open", "failed: before it began", "close"]


async def test_a_client_that_goes_away_leaves_nothing_open(
    container: Container, serve: Any
) -> None:
    steps: list[str] = []
    begun, ended = asyncio.Event(), asyncio.Event()

    @container.provider
    async def resource() -> AsyncIterator[str]:
        try:
            yield "resource"
        finally:
            await asyncio.sleep(0.01)  # a teardown that waits
            steps.append("closed")
            ended.set()

    @streaming
    async def view(request: Request, resource: str) -> Response:
        async def parts() -> AsyncIterator[str]:
            begun.set()
            while True:
                yield "x" * 10_000
                await asyncio.sleep(0.001)

        return StreamingResponse(parts())

    async def feed(websocket: WebSocket, resource: str) -> None:
        await websocket.accept()
        async for _ in websocket.iter_text():
            pass

    app = Starlette(routes=[Route("/", view), WebSocketRoute("/feed", feed)])
    install(app, container=container)
    async with serve(app) as client, asyncio.timeout(20):
        async with client.stream("GET", "/") as answer:
            await begun.wait()
            async for _ in answer.aiter_bytes():
                break
        await ended.wait()
        ended.clear()
        socket = await connect(address(client, "feed"))
        socket.transport.abort()
        await ended.wait()
    assert steps == ["closed"] * 2


request_id: contextvars.ContextVar[int] = contextvars.ContextVar("request_id")


async def test_a_thousand_requests_share_nothing(container: Container, serve: Any) -> None:
    made: list[object] = []

    @container.provider
    async def session(request: Request) -> dict[str, str]:
        made.append(object())
        await asyncio.sleep(0)
        return {"user": request.path_params["user"]}

    @container.provider
    async def audit(session: dict[str, str]) -> dict[str, str]:
        return session

    async def view(
        request: Request, session: dict[str, str], audit: dict[str, str], user: str
    ) -> Response:
        await asyncio.sleep(0)
        return JSONResponse([session["user"] == user, session is audit])

    app = Starlette(routes=[Route("/{user}", view)])
    install(app, container=container)
    transport = httpx.ASGITransport(app=app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://it") as client,
    ):
        answers = await asyncio.gather(*(client.get(f"/u{number}") for number in range(1000)))
    assert {tuple(answer.json()) for answer in answers} == {(True, True)}
    assert len(made) == 1000
