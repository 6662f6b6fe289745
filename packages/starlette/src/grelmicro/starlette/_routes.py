"""Routes: their views are put behind injection when the application starts."""

import inspect
from collections.abc import Callable, Collection, Iterable
from functools import partial
from typing import Any

from grelmicro.errors import GrelmicroError
from grelmicro.inject import Container
from grelmicro.starlette._classes import injected_class
from grelmicro.starlette._fastapi import is_route
from grelmicro.starlette._views import View, is_injected
from starlette.routing import (
    BaseRoute,
    Host,
    Mount,
    Route,
    WebSocketRoute,
    request_response,
    websocket_session,
)

__all__ = ["Routes", "InstallError"]

_DONE = "__grelmicro_done__"


class InstallError(GrelmicroError):
    """A route cannot be injected into."""


class Routes:
    """Puts the views of routes behind injection, each once.

    Args:
        container: Whose providers.
        is_foreign: Whether an application below is somebody else's affair.
    """

    def __init__(self, container: Container, is_foreign: Callable[[object], bool]) -> None:
        self._container = container
        self._is_foreign = is_foreign

    def wrap(self, routes: Iterable[BaseRoute], names: Collection[str] = ()) -> None:
        """Wrap all views of routes, and of what is mounted there.

        Args:
            routes: Those of an application or a router.
            names: The path parameters of what they are mounted under.

        Raises:
            InstallError: A view is hidden by a middleware of its route.
        """
        for route in routes:
            if isinstance(route, Mount | Host):
                self._mounted(route, names)
            elif isinstance(route, Route | WebSocketRoute) and not hasattr(route, _DONE):
                setattr(route, _DONE, True)
                self._view(route, {*names, *route.param_convertors})

    def _mounted(self, mount: Mount | Host, names: Collection[str]) -> None:
        below = _innermost_app(mount.app)
        if not self._is_foreign(below):
            found = {name for name in mount.param_convertors if name != "path"}
            self.wrap(mount.routes or getattr(below, "routes", ()), {*names, *found})

    def _view(self, route: Route | WebSocketRoute, names: Collection[str]) -> None:
        endpoint = route.endpoint
        if is_route(route) or is_injected(endpoint):
            return
        if inspect.isclass(endpoint):
            if (cls := injected_class(self._container, endpoint, names)) is not None:
                _replace(route, lambda app: app is endpoint, cls)
        elif inspect.isroutine(_unwrapped(endpoint)):
            view = View(self._container, endpoint, names=names)
            session = request_response if isinstance(route, Route) else websocket_session
            _replace(route, inspect.isfunction, session(_called(view)))


def _called(view: View) -> Callable[..., Any]:
    """A coroutine function, as Starlette looks for one."""

    async def handle(connection: Any) -> Any:
        return await view(connection)

    return handle


def _unwrapped(endpoint: Any) -> Any:
    while isinstance(endpoint, partial):
        endpoint = endpoint.func
    return endpoint


def _innermost_app(app: Any) -> Any:
    """What is mounted, below the middleware of its mount."""
    while not hasattr(app, "routes") and hasattr(app, "app"):
        app = app.app
    return app


def _replace(route: Any, is_it: Callable[[Any], bool], new: Any) -> None:
    """Put an app in the place of the route's own, below the middleware of that route."""
    holder = route
    while not is_it(holder.app):
        holder = holder.app
        if not hasattr(holder, "app"):
            raise InstallError(
                f"{route!r}: {type(holder).__name__} hides its view; put @inject over the view"
            )
    holder.app = new
