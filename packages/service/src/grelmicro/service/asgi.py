"""ASGI applications on the sockets of the context, served by uvicorn: `grelmicro-service[asgi]`.

A plugin: `await load("grelmicro.service.asgi")`, and add an `App` to the context, in any order. The
stage is ready when all applications are; when it stops, open requests end, and clients are told to
close their connections, WebSockets with code 1012.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from grelmicro.service import context
from grelmicro.service._errors import ServiceError
from grelmicro.service._lifecycle import Cancel, Ready
from grelmicro.service._serving import Asgi, Server, imported, uvicorn
from grelmicro.service._sockets import unique
from grelmicro.service.config import Config, ConfigSource

__all__ = ["App", "AsgiConfig", "prepare"]


class App:
    """An application to be served; a component. Each of several has a name and `sockets`.

    Args:
        app: The application, or "pkg.mod:attribute".
        sockets: The references of those it is served on. None: all that no other one has.
        options: Of `uvicorn.Config`, such as `timeout_keep_alive` or `ws`.

    Raises:
        TypeError: The application is neither callable nor text.
    """

    def __init__(
        self, app: Asgi | str, *, sockets: Sequence[str] | None = None, **options: Any
    ) -> None:
        if not callable(app) and not isinstance(app, str):
            raise TypeError(f"App({type(app).__name__}): pass an ASGI application or its reference")
        self.app: Asgi | str = app
        self.sockets: Sequence[str] | None = sockets
        self.options: dict[str, Any] = options


@dataclass(frozen=True)
class AsgiConfig(Config, section="asgi"):
    """What the section `asgi` of the configuration may say.

    Args:
        app: "pkg.mod:attribute" of an application; it is served if no `App` is in the context.
        access_log: Whether each request is logged, at the level INFO.
    """

    app: str | None = None
    access_log: bool = False


async def prepare(ready: Ready, cancel: Cancel) -> AsyncIterator[Awaitable[None]]:
    """Serve all applications that are in the context when all plugins are prepared.

    Raises:
        DependencyNotFoundError: uvicorn is not installed.
    """
    uvicorn()
    source = context.get(ConfigSource, default=None)
    config = AsgiConfig.adapt(source) if source is not None else AsgiConfig()
    yield _serve(config, cancel, ready.expect("the ASGI applications"))


async def _serve(config: AsgiConfig, cancel: Cancel, arrived: Callable[[], None]) -> None:
    apps = [*context.find(App).values()]
    if not apps and config.app is not None:
        apps = [App(config.app)]
    servers = [
        Server(imported(app.app), found, **{"access_log": config.access_log, **app.options})
        for app, found in _placed(apps, context.find(socket.socket))
    ]
    starting = set(servers)

    def started(server: Server) -> None:
        starting.discard(server)
        if not starting:
            arrived()

    async with asyncio.TaskGroup() as group:
        for server in servers:
            group.create_task(server.run(cancel, started))


def _placed(
    apps: Sequence[App], sockets: Mapping[str | None, socket.socket]
) -> list[tuple[App, list[socket.socket]]]:
    """The applications, with the sockets of each.

    Raises:
        ServiceError: There is no application, or one without a socket, or the sockets of several
            are the same.
    """
    if not apps:
        raise ServiceError(
            "there is no ASGI application: add a grelmicro.service.asgi.App to the context, or set "
            "app in the section [asgi] of the configuration"
        )
    named = [name for app in apps for name in app.sockets or ()]
    if missing := set(named) - set(sockets):
        raise ServiceError(f"an ASGI application asks for the sockets {_listed(missing)}: {_HINT}")
    taken = {sockets[name] for name in named}
    rest = [each for each in unique(sockets) if each not in taken]
    placed = [
        (
            app,
            rest if app.sockets is None else unique({name: sockets[name] for name in app.sockets}),
        )
        for app in apps
    ]
    if not all(found for _, found in placed):
        raise ServiceError(f"there is no socket to serve an ASGI application on: {_HINT}")
    if sum(len(found) for _, found in placed) > len(unique(sockets)):
        raise ServiceError("two ASGI applications are on one socket: name those of each: sockets=")
    return placed


_HINT = 'bind them: fork.stage(..., sockets=["tcp://:8000"]), or --bind tcp://:8000'


def _listed(names: set[str]) -> str:
    return " and ".join(map(repr, sorted(names)))
