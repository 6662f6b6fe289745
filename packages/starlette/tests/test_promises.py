"""What must not go wrong between requests and providers."""

import asyncio
import contextlib
import functools
import importlib
import sys
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from starlette.applications import Starlette
from starlette.authentication import AuthenticationBackend, requires
from starlette.endpoints import WebSocketEndpoint
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Mount, Route, WebSocketRoute
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket

from grelmicro import Grelmicro
from grelmicro.errors import OutOfContextError
from grelmicro.inject import Container, DeclarationError, GraphError, useprovider
from grelmicro.inject import container as default_container
from grelmicro.providers.memory import MemoryProvider
from grelmicro.starlette import InstallError, inject, install, streaming


@pytest.fixture
def container() -> Container:
    return Container()


def app_of(view: Callable[..., Any], path: str = "/", **options: Any) -> Starlette:
    return Starlette(routes=[Route(path, view)], **options)


async def asked(app: Starlette, path: str = "/") -> httpx.Response:
    """One request in this process, with the lifespan around it."""
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://it") as client,
    ):
        return await client.get(path)


async def test_annotations_that_are_strings(
    container: Container, serve: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "only_for_checkers.py").write_text("class Clock: ...\n")
    (tmp_path / "stringy.py").write_text(
        "from __future__ import annotations\n"
        "from typing import TYPE_CHECKING, AsyncIterator\n"
        "from starlette.responses import JSONResponse, Response\n"
        "from grelmicro.inject import provider\n"
        "if TYPE_CHECKING:\n"
        "    from only_for_checkers import Clock\n"
        "    from starlette.requests import Request\n"
        "class Store: ...\n"
        "@provider\n"
        "async def store() -> AsyncIterator[Store]:\n"
        "    yield Store()\n"
        "@provider\n"
        "async def clock() -> Clock:\n"
        "    return 'clock'\n"
        "async def view(request: Request, clock: Clock, by_type: Store, pk: int) -> Response:\n"
        "    return JSONResponse([clock, type(by_type).__name__, pk])\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    stringy = importlib.import_module("stringy")
    app = app_of(stringy.view, "/{pk:int}")
    install(app, container=container, provider_modules=[stringy])
    async with serve(app) as client:
        assert (await client.get("/3")).json() == ["clock", "Store", 3]
    monkeypatch.delitem(sys.modules, "stringy")


async def test_two_tasks_of_one_request_share_one_object(container: Container, serve: Any) -> None:
    built: list[object] = []

    @container.provider
    async def session() -> object:
        await asyncio.sleep(0)
        built.append(object())
        return built[-1]

    @container.provider
    async def one(session: object) -> object:
        return session

    @container.provider
    async def two(session: object) -> object:
        return session

    async def view(request: Request, one: object, two: object) -> Response:
        scope = container.scope(request=request)
        async with scope:
            got = await asyncio.gather(*(scope.get("session") for _ in range(10)))
        return JSONResponse([one is two, len({*map(id, got)})])

    app = app_of(view)
    install(app, container=container)
    async with serve(app) as client:
        assert (await client.get("/")).json() == [True, 1]
    assert len(built) == 2


async def test_views_of_star_arguments(container: Container, serve: Any) -> None:
    container.add(5, "five")

    async def all_of_it(*args: Any, **kwargs: Any) -> Response:
        return JSONResponse([len(args), args[0].url.path, kwargs])

    async def by_name(*args: Any, five: int, pk: int) -> Response:
        return JSONResponse([args[0].url.path, five, pk])

    async def nothing() -> Response:
        return PlainTextResponse("nothing")

    async def two(request: Request, five: int, more: str) -> Response:
        return JSONResponse([five, more])

    app = Starlette(
        routes=[
            Route("/all/{pk:int}", all_of_it),
            Route("/by_name/{pk:int}", by_name),
            Route("/nothing", nothing),
            Route("/partial", functools.partial(two, five=6, more="filled in")),
        ]
    )
    install(app, container=container)
    async with serve(app) as client:
        assert (await client.get("/all/7")).json() == [1, "/all/7", {"pk": 7}]
        assert (await client.get("/by_name/7")).json() == ["/by_name/7", 5, 7]
        assert (await client.get("/nothing")).text == "nothing"
        assert (await client.get("/partial")).json() == [6, "filled in"]


async def test_a_default_is_not_displaced_by_a_type(container: Container) -> None:
    class Page:
        size = 1

    @container.provider
    async def other() -> Page:
        raise AssertionError

    default = Page()

    async def view(request: Request, page: Page = default) -> Response:
        return PlainTextResponse(str(page is default))

    app = app_of(view)
    install(app, container=container)
    assert (await asked(app)).text == "True"


async def test_what_fails_in_a_teardown_is_no_success(
    container: Container, caplog: pytest.LogCaptureFixture
) -> None:
    @container.provider
    async def transaction() -> AsyncIterator[int]:
        yield 1
        raise OSError("the commit failed")

    async def view(request: Request, transaction: int) -> Response:
        return PlainTextResponse("written")

    app = app_of(view)
    install(app, container=container)
    assert (await asked(app)).status_code == 500
    assert "provider 'transaction'" in caplog.text


async def test_the_end_goes_on_after_an_error_and_in_reverse(container: Container) -> None:
    steps: list[str] = []

    @container.provider(scope="app")
    async def first() -> AsyncIterator[int]:
        yield 1
        steps.append("first")

    @container.provider(scope="app")
    async def second(first: int) -> AsyncIterator[int]:
        yield 2
        steps.append("second")
        raise OSError("second cannot be closed")

    @container.provider(scope="app")
    async def third(second: int) -> AsyncIterator[int]:
        yield 3
        steps.append("third")

    micro = Grelmicro(uses=[MemoryProvider()])
    app = Starlette()
    install(app, micro, container)
    with pytest.raises(OSError, match="second cannot be closed"):
        async with app.router.lifespan_context(app):
            pass
    assert steps == ["third", "second", "first"]
    assert not micro.is_open


async def test_every_fault_is_told_with_its_place_before_anything_is_opened(
    container: Container,
) -> None:
    @container.provider
    async def a(b: int) -> int:
        return b

    @container.provider
    async def b(c: int) -> int:
        return c

    @container.provider
    async def c(a: int) -> int:
        return a

    @container.provider(scope="app")
    async def pool(session: object) -> object:
        return session

    @container.provider
    async def session() -> object:
        return object()

    async def view(request: Request, a: int, pool: object, typo: str) -> Response:
        raise AssertionError

    class Never:
        async def __aenter__(self) -> None:
            raise AssertionError

        async def __aexit__(self, *_: object) -> None:
            raise AssertionError

    app = app_of(view)
    install(app, Grelmicro(uses=[Never()]), container)
    with pytest.raises(GraphError) as failure:
        async with app.router.lifespan_context(app):
            raise AssertionError
    told = str(failure.value)
    assert len(failure.value.faults) == 3
    assert "a -> b -> c -> a" in told.replace("→", "->")
    assert "it is app-scoped and needs the request-scoped provider 'session'" in told
    assert "nothing provides 'typo'" in told
    assert "test_promises.py:" in told


async def test_declarations_while_it_runs_are_refused(container: Container) -> None:
    app = Starlette()
    install(app, container=container)
    async with app.router.lifespan_context(app):
        with pytest.raises(DeclarationError, match=r"'late' .*test_promises.py.* comes too late"):

            @container.provider
            async def late() -> int:
                return 1


async def test_a_client_that_gives_up_in_mid_request_leaves_nothing_open(
    container: Container, serve: Any
) -> None:
    steps: list[str] = []
    begun, gone, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

    @container.provider
    async def resource() -> AsyncIterator[str]:
        try:
            yield "resource"
        finally:
            await asyncio.sleep(0)
            steps.append("closed")
            ended.set()

    async def view(request: Request, resource: str) -> Response:
        begun.set()
        await gone.wait()
        while (await request.receive())["type"] != "http.disconnect":
            pass
        steps.append("noticed")
        return PlainTextResponse("nobody reads it")

    app = app_of(view)
    install(app, container=container)
    async with serve(app) as client, asyncio.timeout(20):
        task = asyncio.create_task(client.get("/"))
        await begun.wait()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        gone.set()
        await ended.wait()
    assert steps == ["noticed", "closed"]


class Impatient:
    """A middleware that cancels what is below it, by a scope of anyio, as one with a task group."""

    def __init__(self, app: Any, begun: anyio.Event) -> None:
        self.app = app
        self.begun = begun

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        async with anyio.create_task_group() as group:
            group.start_soon(self.app, scope, receive, send)
            await self.begun.wait()
            group.cancel_scope.cancel()
        await PlainTextResponse("too late", 504)(scope, receive, send)


async def test_a_cancelled_scope_of_anyio_cuts_no_teardown_short(serve: Any) -> None:
    steps: list[str] = []
    begun = anyio.Event()
    lock = anyio.Lock()
    container = Container(grace=60)

    @container.provider
    async def resource() -> AsyncIterator[str]:
        try:
            yield "resource"
        finally:
            async with lock:  # anyio's own, which looks whether its scope is cancelled
                await anyio.sleep(0.01)
                await anyio.lowlevel.checkpoint_if_cancelled()
            steps.append("closed")

    async def view(request: Request, resource: str) -> Response:
        begun.set()
        await anyio.sleep_forever()
        raise AssertionError

    app = app_of(view, middleware=[Middleware(Impatient, begun=begun)])
    install(app, container=container)
    async with serve(app) as client, asyncio.timeout(20):
        assert (await client.get("/")).status_code == 504
    assert steps == ["closed"]


class Timely:
    """A middleware that cancels what is below it, as `asyncio.timeout` does, and once more."""

    def __init__(self, app: Any, begun: asyncio.Event) -> None:
        self.app = app
        self.begun = begun

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        task = asyncio.ensure_future(self.app(scope, receive, send))
        await self.begun.wait()
        for _ in range(3):
            task.cancel()
            await asyncio.sleep(0)
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await PlainTextResponse("too late", 504)(scope, receive, send)


async def test_nothing_is_closed_under_a_thread_that_still_works(
    container: Container, serve: Any
) -> None:
    steps: list[str] = []
    begun, loop = asyncio.Event(), asyncio.get_running_loop()
    go = threading.Event()

    @container.provider
    async def resource() -> AsyncIterator[str]:
        try:
            yield "resource"
        finally:
            steps.append("closed")

    def view(request: Request, resource: str) -> Response:
        loop.call_soon_threadsafe(begun.set)
        assert go.wait(20)
        steps.append("worked")
        return PlainTextResponse("nobody reads it")

    app = app_of(view, middleware=[Middleware(Timely, begun=begun)])
    install(app, container=container)
    async with serve(app) as client, asyncio.timeout(20):
        request = asyncio.create_task(client.get("/"))
        await begun.wait()
        await asyncio.sleep(0.05)  # it would be closed by now
        go.set()
        assert (await request).status_code == 504
    assert steps == ["worked", "closed"]


async def test_a_teardown_that_hangs_is_cut_short_after_its_grace(serve: Any) -> None:
    begun = anyio.Event()
    container = Container(grace=0.05)

    @container.provider
    async def resource() -> AsyncIterator[str]:
        try:
            yield "resource"
        finally:
            await anyio.sleep_forever()

    async def view(request: Request, resource: str) -> Response:
        begun.set()
        await anyio.sleep_forever()
        raise AssertionError

    app = app_of(view, middleware=[Middleware(Impatient, begun=begun)])
    install(app, container=container)
    async with serve(app) as client, asyncio.timeout(20):
        assert (await client.get("/")).status_code == 504


async def test_applications_that_run_one_after_the_other_share_the_default_container() -> None:
    async def view(request: Request, memory: MemoryProvider, micro: Grelmicro) -> Response:
        assert memory in micro.providers
        return PlainTextResponse(str(memory.supports))

    for _ in range(2):
        app = app_of(view)
        install(app, Grelmicro(uses=[MemoryProvider()]))
        assert (await asked(app)).status_code == 200
    assert "memory" not in default_container
    assert not default_container.is_open
    async with default_container:  # it knows nothing of views that nobody calls any more
        pass


async def test_what_was_injected_into_by_hand_meanwhile_is_kept(container: Container) -> None:
    container.add(5, "five")
    app = Starlette()
    install(app, container=container)
    async with app.router.lifespan_context(app):

        @container.inject
        async def by_hand(five: int) -> int:
            return five

        assert await by_hand() == 5
    async with app.router.lifespan_context(app):
        assert await by_hand() == 5


async def test_applications_that_run_at_once_have_a_container_each(serve: Any) -> None:
    async def view(request: Request, name: str) -> Response:
        return PlainTextResponse(name)

    apps = []
    for name in ("one", "two"):
        container = Container()
        container.add(name, "name")
        apps.append(app_of(view))
        install(apps[-1], Grelmicro(uses=[MemoryProvider()]), container)
    async with serve(apps[0]) as one, serve(apps[1]) as two:
        assert ((await one.get("/")).text, (await two.get("/")).text) == ("one", "two")
        other = Starlette()
        install(other, container=container)
        with pytest.raises(InstallError, match="the container is open already"):
            async with other.router.lifespan_context(other):
                raise AssertionError


async def test_routes_are_given_back_and_serve_one_application_at_a_time(serve: Any) -> None:
    async def view(request: Request, name: str) -> Response:
        return PlainTextResponse(name)

    route = Route("/", view)
    routes = [route, Mount("/below", routes=[Route("/", view)])]
    own = route.app
    apps = []
    for name in ("one", "two"):
        container = Container()
        container.add(name, "name")
        apps.append(Starlette(routes=routes))
        install(apps[-1], container=container)
    for _ in range(2):
        async with serve(apps[0]) as one:
            assert ((await one.get("/")).text, (await one.get("/below/")).text) == ("one", "one")
            with pytest.raises(InstallError, match="a route of another application that runs"):
                async with apps[1].router.lifespan_context(apps[1]):
                    raise AssertionError
        async with serve(apps[1]) as two:
            assert ((await two.get("/")).text, (await two.get("/below/")).text) == ("two", "two")
        assert route.app is own


async def test_a_composer_that_cannot_be_opened_leaves_the_container_as_it_was(
    container: Container,
) -> None:
    class Away:
        async def __aenter__(self) -> None:
            raise OSError("away")

        async def __aexit__(self, *_: object) -> None:
            raise AssertionError

    app = Starlette()
    install(app, Grelmicro(uses=[Away()]), container)
    with pytest.raises(OSError, match="away"):
        async with app.router.lifespan_context(app):
            raise AssertionError
    container.add(1, "one")  # it is not frozen
    assert "micro" not in container


async def test_inject_by_itself(container: Container) -> None:
    container.add(5, "five")

    @inject(container=container)
    def sync_view(request: Request, five: int, pk: int) -> Response:
        return JSONResponse([five, pk])

    class Views:
        @inject(container=container)
        async def method(self, request: Request, five: int) -> int:
            return five

    app = app_of(sync_view, "/{pk:int}")
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://it") as client:
        with pytest.raises(OutOfContextError, match="not open"):
            await client.get("/3")
        async with container:
            assert (await client.get("/3")).json() == [5, 3]
            request = Request({"type": "http", "path_params": {}})
            assert await Views().method(request) == 5
            assert await Views().method(request=request, five=6) == 6


@pytest.mark.parametrize("name", ["request", "websocket"])
async def test_who_asks_for_a_request_where_there_is_none_is_told_at_the_start(
    container: Container, name: str
) -> None:
    @container.provider
    async def user(request: Request) -> str:
        return request.headers["x-user"]

    @container.provider
    async def room(websocket: WebSocket) -> str:
        return str(websocket.path_params["room"])

    @container.provider(autouse=True)
    async def log(http_connection: HTTPConnection) -> None:
        pass

    async def view(request: Request, room: str) -> Response:
        raise AssertionError

    async def feed(websocket: WebSocket, user: str) -> None:
        raise AssertionError

    class Feed(WebSocketEndpoint):
        async def on_receive(self, websocket: WebSocket, data: Any, user: str = "") -> None:
            raise AssertionError

    routes: dict[str, list[BaseRoute]] = {
        "request": [WebSocketRoute("/feed", feed), WebSocketRoute("/class", Feed)],
        "websocket": [Route("/", view)],
    }
    app = Starlette(routes=routes[name])
    install(app, container=container)
    with pytest.raises(GraphError, match=f"asks for '{name}', which there is not") as failure:
        async with app.router.lifespan_context(app):
            raise AssertionError
    assert len(failure.value.faults) == len(routes[name])
    async with container:  # it is as it was
        pass


async def test_marks_may_stand_above_inject(container: Container) -> None:
    steps: list[str] = []

    @container.provider
    async def log() -> None:
        steps.append("log")

    @container.provider
    async def resource() -> AsyncIterator[str]:
        yield "resource"
        steps.append("closed")

    @useprovider("log")
    @streaming
    @inject(container=container)
    def view(request: Request, resource: str) -> Response:
        async def parts() -> AsyncIterator[str]:
            steps.append("part")
            yield resource

        return StreamingResponse(parts())

    app = app_of(view)
    install(app, container=container)
    assert (await asked(app)).text == "resource"
    assert steps == ["log", "part", "closed"]


async def test_a_decorator_that_looks_for_the_request_finds_it(container: Container) -> None:
    container.add(5, "five")

    @requires("nothing")
    async def view(request: Request, five: int) -> Response:
        raise AssertionError

    @requires([])
    def sync_view(request: Request, five: int, pk: int) -> Response:
        return JSONResponse([five, pk])

    class Anybody(AuthenticationBackend):
        async def authenticate(self, conn: HTTPConnection) -> None:
            return None

    app = Starlette(
        routes=[Route("/", view), Route("/{pk:int}", sync_view)],
        middleware=[Middleware(AuthenticationMiddleware, backend=Anybody())],
    )
    install(app, container=container)
    assert (await asked(app)).status_code == 403
    assert (await asked(app, "/3")).json() == [5, 3]
