"""A real server for applications, on a port of its own."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import httpx
import pytest
import uvicorn

Serve = Callable[[Any], AbstractAsyncContextManager[httpx.AsyncClient]]


@asynccontextmanager
async def served(app: Any) -> AsyncGenerator[httpx.AsyncClient]:
    """Serve an application over TCP; a client of it."""
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    config = uvicorn.Config(app, lifespan="on", log_level="critical", ws="websockets-sansio")
    server = uvicorn.Server(config)

    async def run() -> None:
        with contextlib.suppress(SystemExit):  # an application that does not start ends uvicorn
            await server.serve(sockets=[listener])

    task = asyncio.create_task(run())
    try:
        while not server.started:
            if task.done():
                raise RuntimeError("the application did not start")
            await asyncio.sleep(0.005)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:
            yield client
    finally:
        server.should_exit = True
        await task
        listener.close()


@pytest.fixture
def serve() -> Serve:
    """`async with serve(app) as client`."""
    return served
