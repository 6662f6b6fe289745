"""uvicorn, as a task of a stage: it serves until `Cancel` is set, and loses nothing."""

import asyncio
import importlib
import socket
from collections.abc import Awaitable, Callable, Iterator, MutableMapping, Sequence
from contextlib import suppress
from types import ModuleType
from typing import Any

from grelmicro.errors import DependencyNotFoundError
from grelmicro.service._errors import ServiceError
from grelmicro.service._lifecycle import Cancel

__all__ = ["Asgi", "Server", "imported", "uvicorn"]

Message = MutableMapping[str, Any]
Asgi = Callable[[Any, Any, Any], Awaitable[None]]

_LINGER = 1.0
"""Seconds in which requests may arrive from clients that could not know that it is over."""
_POLL = 0.02


class Server:
    """Serves an application.

    Args:
        app: The application.
        sockets: That listen; they are closed when it stops.
        options: Of `uvicorn.Config`.

    Raises:
        DependencyNotFoundError: uvicorn is not installed.
    """

    def __init__(self, app: Asgi, sockets: Sequence[socket.socket], **options: Any) -> None:
        self._app = _Parting(app)
        self._sockets = [*sockets]
        given = {"log_config": None, **options, "interface": "asgi3"}  # it logs as the process does
        self._config = uvicorn().Config(self._app, **given)
        self._server = uvicorn().Server(self._config)

    async def run(self, cancel: Cancel, started: Callable[["Server"], None]) -> None:
        """Serve until `Cancel` is set, then let open requests end.

        Args:
            cancel: When to stop.
            started: Called when connections are accepted.

        Raises:
            ServiceError: The application's lifespan did not start.
            asyncio.CancelledError: Requests took too long, and were cancelled.
        """
        if cancel.is_set():  # it has asked: from now on, it is given time to stop
            return
        await self._start()
        started(self)
        ticking = asyncio.create_task(self._server.main_loop())  # it sets the date of responses
        try:
            await cancel.wait()
            await self._stop_accepting()
            await self._linger()
            await self._server.shutdown()
        except asyncio.CancelledError:
            await self._abandon()
            raise
        finally:
            ticking.cancel()

    async def _start(self) -> None:
        self._config.load()
        self._server.lifespan = self._config.lifespan_class(self._config)
        try:
            await self._server.startup(self._sockets)
        except SystemExit:
            raise ServiceError("the ASGI application did not start: its lifespan failed") from None

    async def _stop_accepting(self) -> None:
        """Accept what is in the queues, then nothing more, with no moment between the two.

        Whatever came between would be lost if this is the last worker.
        """
        self._app.parting = True
        loop = asyncio.get_running_loop()
        for each in self._sockets:
            loop.remove_reader(each.fileno())
        for _ in range(3):
            await asyncio.sleep(0)  # what has just been accepted is not its server's yet
        accepted: list[socket.socket] = []
        for server, each in zip(self._server.servers, self._sockets, strict=True):
            accepted += _accepted(each)
            server.close()
            each.close()
        for each in accepted:
            with suppress(OSError):  # whoever has come may have gone
                await loop.connect_accepted_socket(self._protocol, each, ssl=self._config.ssl)

    async def _linger(self) -> None:
        """Give clients time to hear, in a response, that they shall close; WebSockets are told."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _LINGER
        while any(self._http_connections()) and loop.time() < deadline:  # noqa: ASYNC110 - uvicorn tells nobody
            await asyncio.sleep(_POLL)

    async def _abandon(self) -> None:
        """Cancel what is open, and end the lifespan."""
        requests = [*self._server.server_state.tasks]
        for each in requests:
            each.cancel()
        if requests:
            await asyncio.wait(requests)
        await self._server.lifespan.shutdown()

    def _http_connections(self) -> Iterator[Any]:
        others = self._config.ws_protocol_class or ()
        return (
            each for each in self._server.server_state.connections if not isinstance(each, others)
        )

    def _protocol(self) -> asyncio.Protocol:
        """A connection, as uvicorn makes them of what it accepts itself."""
        made: asyncio.Protocol = self._config.http_protocol_class(
            config=self._config,
            server_state=self._server.server_state,
            app_state=self._server.lifespan.state,
        )
        return made


class _Parting:
    """An application whose responses tell, from some time on, that their connection is closed."""

    def __init__(self, app: Asgi) -> None:
        self._app = app
        self.parting = False

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def tell(message: Message) -> None:
            if self.parting and message["type"] == "http.response.start":
                headers = [pair for pair in message.get("headers", ()) if not _is_connection(pair)]
                message = {**message, "headers": [*headers, (b"connection", b"close")]}
            await send(message)

        told = scope["type"] == "http" and scope["http_version"] != "2"  # that has no such header
        await self._app(scope, receive, tell if told else send)


def imported(app: Asgi | str) -> Asgi:
    """An application, or what its reference leads to.

    Raises:
        ImportError: There is no such module.
        ServiceError: It is not there, or is no application.
    """
    if not isinstance(app, str):
        return app
    name, _, path = app.partition(":")
    found: Any = importlib.import_module(name)
    for each in filter(None, path.split(".")):
        found = getattr(found, each, None)
    if not callable(found):
        raise ServiceError(
            f"there is no ASGI application at {app!r}: name it as package.module:attribute"
        )
    return found  # type: ignore[no-any-return]  # what it takes is seen when it is called


def uvicorn() -> ModuleType:
    """The module; importing it takes time, and it may not be installed.

    Raises:
        DependencyNotFoundError: It is not.
    """
    try:
        import uvicorn as module
    except ImportError:
        raise DependencyNotFoundError(
            'ASGI applications are served by uvicorn: pip install "grelmicro-service[asgi]"'
        ) from None
    return module


def _accepted(listening: socket.socket) -> Iterator[socket.socket]:
    """The connections that wait in a queue."""
    while True:
        try:
            accepted, _ = listening.accept()
        except ConnectionAbortedError:
            continue
        except OSError:  # it is empty, or there is no room for more
            return
        accepted.setblocking(False)
        yield accepted


def _is_connection(header: tuple[bytes, bytes]) -> bool:
    return bytes(header[0]).lower() == b"connection"
