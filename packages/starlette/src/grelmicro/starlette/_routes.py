"""Routes: while an application runs, its views are behind injection."""

import inspect
from collections.abc import Callable, Collection, Iterable
from functools import partial
from typing import Any

from grelmicro.errors import GrelmicroError
from grelmicro.inject import Consumer, Container, Graph, GraphError
from grelmicro.starlette._classes import injected_class
from grelmicro.starlette._fastapi import Marks, effective, is_route
from grelmicro.starlette._views import View, is_injected
from starlette.applications import Starlette
from starlette.routing import (
    BaseRoute,
    Host,
    Mount,
    Route,
    WebSocketRoute,
    request_response,
    websocket_session,
)

__all__ = ["InstallError", "Routes"]

_WRONG = (
    "{view}: a provider that runs for it asks for {name!r}, which there is not; where either will "
    "do, ask for 'http_connection'"
)

_SERVED = "__grelmicro_routes__"
"""What tells, at a route, who has put its view behind injection."""


class InstallError(GrelmicroError, ValueError):
    """An application or a route cannot be injected into."""


class Routes:
    """Puts the views of routes behind injection, and takes them from there again.

    Args:
        container: Whose providers.
        is_foreign: Whether an application below is somebody else's affair.
    """

    def __init__(self, container: Container, is_foreign: Callable[[object], bool]) -> None:
        self._container = container
        self._is_foreign = is_foreign
        self._marks = Marks(container)
        self._made: list[_Replaced] = []
        self._absent: dict[Consumer, str] = {}
        """What there is not for a view: a request, or a WebSocket."""
        self.apps: list[Starlette] = []
        """The applications below that have been met."""

    def wrap(self, routes: Iterable[BaseRoute], names: Collection[str] = ()) -> None:
        """Wrap all views of routes, and of what is mounted there.

        Args:
            routes: Those of an application or a router.
            names: The path parameters of what they are mounted under.

        Raises:
            InstallError: A view is hidden by a middleware of its route, or another application
                that runs has the same route, and another container.
        """
        for route in effective(routes):
            known = len(self._container.consumers)
            if isinstance(route, Mount | Host):
                self._mounted(route, names)
                continue
            if is_route(route):
                self._marks.read(route)
            elif isinstance(route, Route | WebSocketRoute):
                self._wrap_view(route, names)
            absent = "request" if _is_websocket(route) else "websocket"
            self._absent |= dict.fromkeys(self._container.consumers[known:], absent)

    def bind(self, graph: Graph, app: Starlette) -> None:
        """Bind FastAPI's marks, those of applications below too, in a frozen graph.

        Raises:
            GraphError: A WebSocket is asked for where there is a request, or the other way round.
        """
        asking = [each for each, name in self._absent.items() if name in graph.given_to(each)]
        if asking:
            raise GraphError([_WRONG.format(view=each, name=self._absent[each]) for each in asking])
        self._marks.bind(graph)
        for each in (app, *self.apps):
            self._marks.serve(each)

    def unwrap(self) -> None:
        """Give all routes their own views back."""
        for made in self._made:
            made.holder.app = made.old
            delattr(made.route, _SERVED)

    def _mounted(self, mount: Mount | Host, names: Collection[str]) -> None:
        below = _innermost_app(mount.app)
        if self._is_foreign(below):
            return
        if isinstance(below, Starlette) and below not in self.apps:
            self.apps.append(below)
        found = {name for name in mount.param_convertors if name != "path"}
        self.wrap(getattr(below, "routes", ()), {*names, *found})

    def _wrap_view(self, route: Route | WebSocketRoute, names: Collection[str]) -> None:
        owner = getattr(route, _SERVED, None)
        if owner is self:
            return
        if owner is not None:
            raise InstallError(
                f"{route!r} is a route of another application that runs, and has another "
                "container: make routes for each of them"
            )
        made = self._replaced(route, {*names, *route.param_convertors})
        if made is not None:
            self._made.append(made)
            made.holder.app = made.new
            setattr(route, _SERVED, self)

    def _replaced(
        self, route: Route | WebSocketRoute, names: Collection[str]
    ) -> "_Replaced | None":
        endpoint: Any = route.endpoint
        if is_injected(endpoint) or _is_of_fastapi(endpoint):
            return None
        if inspect.isclass(endpoint):
            cls = injected_class(self._container, endpoint, names)
            return None if cls is None else _Replaced(route, lambda app: app is endpoint, cls)
        if not inspect.isroutine(_unwrapped(endpoint)):
            return None
        view = View(self._container, endpoint, names=names)
        session: Any = request_response if isinstance(route, Route) else websocket_session
        return _Replaced(route, inspect.isfunction, session(view.handler()))


class _Replaced:
    """An app in the place of a route's own, below the middleware of that route."""

    def __init__(self, route: Any, is_it: Callable[[Any], bool], new: Any) -> None:
        self.route = route
        self.holder = route
        while not is_it(self.holder.app):
            self.holder = self.holder.app
            if not hasattr(self.holder, "app"):
                raise InstallError(
                    f"{route!r}: {type(self.holder).__name__} hides its view; put @inject over "
                    "the view"
                )
        self.old: Any = self.holder.app
        self.new = new


def _is_websocket(route: Any) -> bool:
    return isinstance(getattr(route, "original_route", route), WebSocketRoute)


def _is_of_fastapi(endpoint: Any) -> bool:
    """Whether it shows the schema or the documentation."""
    return str(getattr(endpoint, "__module__", "")).partition(".")[0] == "fastapi"


def _unwrapped(endpoint: Any) -> Any:
    while isinstance(endpoint, partial):
        endpoint = endpoint.func
    return endpoint


def _innermost_app(app: Any) -> Any:
    """What is mounted, below the middleware of its mount."""
    while not hasattr(app, "routes") and hasattr(app, "app"):
        app = app.app
    return app
