"""ASGI applications on shared sockets: real servers, clients and signals."""

import asyncio
import os
import signal
import socket
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosedError

APP = """
import contextlib
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute

@contextlib.asynccontextmanager
async def lifespan(app):
    await asyncio.sleep(0.1)
    say("lifespan begins")
    yield
    say("lifespan ends")

async def hello(request):
    return PlainTextResponse(f"{context.get(str)} {os.getpid()}")

async def slow(request):
    say("slow begins")
    await asyncio.sleep(float(request.query_params["seconds"]))
    return PlainTextResponse("slow")

async def listen(websocket):
    await websocket.accept()
    await websocket.receive_text()

routes = [Route("/", hello), Route("/slow", slow), WebSocketRoute("/listen", listen)]
app = Starlette(routes=routes, lifespan=lifespan)

async def prepare(load: plugin.Loader):
    await load("grelmicro.service.asgi")
    context.add("hello")
    context.add(asgi.App(app, ws="websockets-sansio"))
"""


def served(start: Any, forks: int = 1, grace: float = 25.0) -> tuple[Any, str]:
    """A program that serves, and its address."""
    program = start(
        APP + f"fork.stage(prepare, forks={forks}, sockets=['tcp://127.0.0.1:0'], grace={grace})"
    )
    program.until("all workers are ready")
    return program, f"127.0.0.1:{program.ports()[0]}"


def test_it_lives_as_long_as_its_lifespan(start: Any) -> None:
    program, place = served(start)
    assert program.events("lifespan begins")  # before it was ready
    assert httpx.get(f"http://{place}/").text.split()[0] == "hello"
    assert program.ended(signal.SIGTERM) == 0
    assert program.events("lifespan ends")


async def accepts(place: str) -> bool:
    """Whether somebody listens."""
    try:
        _, writer = await asyncio.open_connection(*place.split(":"))
    except ConnectionRefusedError:
        return False
    writer.close()
    return True


async def test_open_requests_end_and_no_new_ones_come(start: Any) -> None:
    program, place = served(start)
    async with httpx.AsyncClient(base_url=f"http://{place}") as client:
        await client.get("/")  # a connection that is kept alive
        first = asyncio.create_task(client.get("/slow", params={"seconds": 1}))
        await asyncio.to_thread(program.until, "slow begins")
        program.send(signal.SIGTERM)
        await asyncio.to_thread(program.until, "SIGTERM: stopping")
        async with asyncio.timeout(20):
            while await accepts(place):  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.01)
        answer = await first
    assert (answer.text, answer.headers["connection"]) == ("slow", "close")
    assert await asyncio.to_thread(program.ended) == 0


async def test_an_idle_connection_is_told_and_closed(start: Any) -> None:
    program, place = served(start)
    async with httpx.AsyncClient(base_url=f"http://{place}") as client:
        assert "connection" not in (await client.get("/")).headers
        program.send(signal.SIGTERM)
        await asyncio.to_thread(program.until, "SIGTERM: stopping")
        async with asyncio.timeout(20):
            answer = await client.get("/")
            while answer.headers.get("connection") != "close":
                answer = await client.get("/")
        assert answer.status_code == 200
    assert not await accepts(place)
    assert await asyncio.to_thread(program.ended) == 0


async def test_websockets_are_closed_with_1012(start: Any) -> None:
    program, place = served(start)
    async with connect(f"ws://{place}/listen") as websocket:
        program.send(signal.SIGTERM)
        with pytest.raises(ConnectionClosedError) as caught:
            await websocket.recv()
    assert caught.value.rcvd is not None
    assert caught.value.rcvd.code == 1012
    assert await asyncio.to_thread(program.ended) == 0


async def test_what_takes_too_long_is_cancelled(start: Any) -> None:
    program, place = served(start, grace=3.0)
    async with httpx.AsyncClient(base_url=f"http://{place}", timeout=30) as client:
        request = asyncio.create_task(client.get("/slow", params={"seconds": 600}))
        await asyncio.to_thread(program.until, "slow begins")
        program.send(signal.SIGTERM)
        assert (await request).status_code == 500
    assert await asyncio.to_thread(program.ended) == 0
    assert program.events("lifespan ends")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_no_connection_in_the_queue_is_lost_with_a_worker(
    start: Any, number: signal.Signals
) -> None:
    program, place = served(start, forks=2)
    workers = program.running()
    for each in workers:
        os.kill(each, signal.SIGSTOP)
    host, port = place.split(":")
    with ExitStack() as stack:
        clients = [
            stack.enter_context(socket.create_connection((host, int(port)), 30)) for _ in range(200)
        ]
        for client in clients:
            client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        os.kill(workers[0], number)
        for each in workers:
            with suppress(ProcessLookupError):  # the one that was killed
                os.kill(each, signal.SIGCONT)
        answers = [client.makefile("rb").read() for client in clients]
    assert [answer[:15] for answer in answers] == [b"HTTP/1.1 200 OK"] * 200
    assert program.ended(signal.SIGTERM) == 0


def test_several_applications_have_sockets_of_their_own(start: Any, tmp_path: Path) -> None:
    program = start(
        APP
        + f"""
def saying(text):
    async def app(scope, receive, send):
        assert scope["type"] == "http", "it has no lifespan"
        await send({{"type": "http.response.start", "status": 200, "headers": []}})
        await send({{"type": "http.response.body", "body": text}})
    return app

async def both(load: plugin.Loader):
    context.add(asgi.App(saying(b"admin"), sockets=["unix://{tmp_path}/admin"]), name="admin")
    context.add(asgi.App(saying(b"rest")), name="rest")
    await load(asgi)

sockets = ["tcp://127.0.0.1:0", "unix://{tmp_path}/admin", "unix://{tmp_path}/rest"]
fork.stage(both, forks=1, sockets=sockets)
"""
    )
    program.until("all workers are ready")
    texts = []
    for name in ("admin", "rest"):
        transport = httpx.HTTPTransport(uds=f"{tmp_path}/{name}")
        with httpx.Client(transport=transport) as client:
            texts.append(client.get("http://x/").text)
    texts.append(httpx.get(f"http://127.0.0.1:{program.ports()[0]}/").text)
    assert texts == ["admin", "rest", "rest"]
    assert program.ended(signal.SIGTERM) == 0


@pytest.mark.parametrize(
    ("added", "sockets", "text"),
    [
        ("[]", ["tcp://127.0.0.1:0"], "there is no ASGI application: add a"),
        ("[asgi.App(app)]", [], "there is no socket to serve an ASGI application on: bind them"),
        ("[asgi.App(app, sockets=['x'])]", ["tcp://127.0.0.1:0"], "asks for the sockets 'x'"),
        ("[asgi.App(app), asgi.App(app)]", ["tcp://127.0.0.1:0"], "two ASGI applications are on"),
        ("[asgi.App('os:nothing')]", ["tcp://127.0.0.1:0"], "no ASGI application at 'os:nothing'"),
        ("[asgi.App(bad)]", ["tcp://127.0.0.1:0"], "its lifespan failed"),
    ],
)
def test_what_cannot_be_served(start: Any, added: str, sockets: list[str], text: str) -> None:
    source = f"""
@contextlib.asynccontextmanager
async def failing(app):
    raise LookupError("no luck")
    yield

bad = Starlette(lifespan=failing)

async def wrong(load: plugin.Loader):
    for number, each in enumerate({added}):
        context.add(each, name=str(number))
    await load(asgi)

fork.stage(wrong, forks=1, sockets={sockets})
"""
    program = start(APP + source)
    assert program.ended() == 1
    assert text in program.log.read_text()


def test_a_lifespan_that_hangs_is_told(start: Any) -> None:
    source = """
@contextlib.asynccontextmanager
async def hanging(app):
    await asyncio.Future()
    yield

async def hangs(load: plugin.Loader):
    context.add(asgi.App(Starlette(lifespan=hanging)))
    await load(asgi)

fork.stage(hangs, forks=1, sockets=["tcp://127.0.0.1:0"], startup_timeout=0.5)
"""
    program = start(APP + source)
    assert program.ended() == 1
    assert program.events("the ASGI applications did not start within 0.5 seconds")
    assert program.events("before it was ready")


def test_without_uvicorn_the_way_to_it_is_told(start: Any) -> None:
    program = start(
        "sys.modules['uvicorn'] = None\n" + APP + "fork.stage(prepare, forks=1, sockets=[])"
    )
    assert program.ended() == 1
    assert program.events('pip install "grelmicro-service[asgi]"')
