"""Never run: what the type checkers have to make of the public interface."""

from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Annotated, Any, assert_type

from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from grelmicro import Grelmicro
from grelmicro.inject import Container, Use, provider, useprovider
from grelmicro.starlette import Problem, Provided, add_problems, inject, install, streaming


class Redis:
    """A value."""


@provider
async def redis(request: Request) -> AsyncIterator[Redis]:
    """Keep its type."""
    yield Redis()


async def view(request: Request, pk: int, redis: Redis) -> Response:
    """A route takes it."""
    return Problem(404, "Not Found", f"there is no {pk}")


@streaming
@useprovider(redis)
def sync_view(request: Request, other: Annotated[Redis, Use("redis")]) -> Response:
    """Keep its type."""
    return Response()


async def feed(websocket: WebSocket, redis: Redis) -> None:
    """A route takes it."""


@inject
async def injected(request: Request, redis: Redis) -> bytes:
    """What is injected is not asked for any more."""
    return b""


@inject(container=Container())
def injected_sync(request: Request, redis: Redis) -> int:
    """It is awaited, as it is run in a thread."""
    return 1


api = FastAPI()


@api.get("/notes/{pk}")
async def marked(pk: int, redis: Annotated[Redis, Provided()]) -> str:
    """A mark leaves the type as it is."""
    assert_type(redis, Redis)
    return "note"


@inject
def sync_number(request: Request, redis: Redis) -> int:
    """It is awaited, as it is run in a thread."""
    return 1


async def calls(request: Request) -> None:
    """What is called, and with what."""
    assert_type(await injected(request), bytes)
    assert_type(await sync_number(request), int)
    assert_type(await injected_sync(request), int)
    assert_type(await marked(1, Redis()), str)
    assert_type(sync_view(request, Redis()), Response)
    handler: Callable[..., Coroutine[Any, Any, bytes]] = injected
    await handler(request)


def installed() -> None:
    """Applications of both frameworks."""
    app = Starlette(
        routes=[Route("/{pk:int}", view), Route("/", sync_view), WebSocketRoute("/feed", feed)]
    )
    install(app, Grelmicro(), Container(), provider_modules=["providers"], health=True)
    install(api)
    add_problems(app)
