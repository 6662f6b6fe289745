"""A bank that works, fails or hangs, as it is told: `python bank.py SOCKET`, a listening one."""

import asyncio
import sys

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route


async def charge(request: Request) -> Response:
    """Take money, unless it is not in the mood."""
    match request.app.state.mood:
        case "failing":
            return PlainTextResponse("out of order", 500)
        case "hanging":
            await asyncio.sleep(5)
    return PlainTextResponse("charged")


async def change_mood(request: Request) -> Response:
    """Be `well`, `failing` or `hanging` from now on."""
    request.app.state.mood = request.path_params["mood"]
    return PlainTextResponse(request.app.state.mood)


app = Starlette(
    routes=[
        Route("/charge", charge, methods=["POST"]),
        Route("/mood/{mood}", change_mood, methods=["POST"]),
    ]
)
app.state.mood = "well"

if __name__ == "__main__":
    uvicorn.run(app, fd=int(sys.argv[1]), log_level="warning")
