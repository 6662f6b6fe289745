"""A service for notes: REST, and a live feed by WebSocket.

    uvicorn service:app

The notes are in notes.db; NOTES_URL=postgresql://... moves them to a Postgres. Single notes are
cached, and writers are limited, in the memory of this process; GRELMICRO_URL=redis://... has all
processes share that. The feed tells what this process has written.
"""

import asyncio
import contextlib

from notes import Event, Feed, InvalidNoteError, Notes
from providers import FindNote
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from grelmicro import Grelmicro
from grelmicro.providers import autodiscover
from grelmicro.resilience import RateLimiter
from grelmicro.starlette import Problem, install

writers = RateLimiter.token_bucket("example-notes", capacity=100, refill_rate=5)


class NotesView(HTTPEndpoint):
    """All notes."""

    async def get(self, request: Request, notes: Notes) -> Response:
        """List them."""
        return JSONResponse(await notes.all())

    async def post(self, request: Request, notes: Notes) -> Response:
        """Make one for each text of a list, or none at all."""
        assert request.client is not None
        await writers.acquire_or_raise(key=request.client.host)
        made = [await notes.add(str(text)) for text in await request.json()]
        return JSONResponse(made, status_code=201)


async def read(request: Request, pk: int, find_note: FindNote) -> Response:
    """One note, from the cache if it is there."""
    note = await find_note(pk)
    return JSONResponse(note) if note is not None else missing(pk)


async def remove(request: Request, pk: int, notes: Notes) -> Response:
    """Delete it."""
    return Response(status_code=204) if await notes.remove(pk) else missing(pk)


async def listen(websocket: WebSocket, feed: Feed) -> None:
    """Send events until the client goes."""
    with feed.listening() as events:
        await websocket.accept()
        sending = asyncio.create_task(send_all(websocket, events))
        try:
            async for _ in websocket.iter_text():
                pass
        finally:
            sending.cancel()
            await asyncio.wait([sending])


async def send_all(websocket: WebSocket, events: asyncio.Queue[Event]) -> None:
    """Send what comes."""
    with contextlib.suppress(WebSocketDisconnect):
        while True:
            await websocket.send_json(await events.get())


def missing(pk: int) -> Response:
    """There is no such note."""
    return Problem(404, "Not Found", f"there is no note {pk}")


async def invalid(_: Request, error: Exception) -> Response:
    """What the client sent cannot be a note."""
    return Problem(422, "Unprocessable Content", str(error))


app = Starlette(
    routes=[
        Route("/notes", NotesView),
        Route("/notes/{pk:int}", read),
        Route("/notes/{pk:int}", remove, methods=["DELETE"]),
        WebSocketRoute("/feed", listen),
    ],
    exception_handlers={InvalidNoteError: invalid},
)
install(app, Grelmicro(uses=[autodiscover()]), provider_modules=["providers"], health=True)
