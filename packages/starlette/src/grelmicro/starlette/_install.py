"""Joining an application, its composer and its container."""

import sys
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from types import ModuleType
from typing import Any

from grelmicro import Grelmicro
from grelmicro.inject import Container
from grelmicro.inject import container as default_container
from grelmicro.starlette._fastapi import serve_from
from grelmicro.starlette._health import health_routes
from grelmicro.starlette._problems import add_problems
from grelmicro.starlette._routes import Routes
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Host, Mount
from starlette.websockets import WebSocket

__all__ = ["install"]

Lifespan = Callable[[Any], AbstractAsyncContextManager[Any]]

_EDGE = "__grelmicro_edge__"
"""What marks an application that has an edge of its own."""


def install(
    app: Starlette,
    micro: Grelmicro | None = None,
    container: Container | None = None,
    *,
    provider_modules: Iterable[str | ModuleType] = (),
    health: bool = False,
) -> None:
    """Inject into the views of an application, and of what is mounted in it.

    When the application starts, `micro` is opened, then the container, then the application's own
    lifespan begins; when it ends, they end in reverse. Views ask for providers by the names or the
    types of their parameters; the first positional one is the request or the WebSocket. Providers
    can ask for `request`, `websocket` or, where either will do, `connection`.

    What `micro` has can be injected too: components by kind (`cache`) or their own name, providers
    by their short name (`redis`), and all by type. What is declared under such a name goes first.

    Args:
        app: An application of Starlette or FastAPI, before it starts.
        micro: The composer, which is opened and closed with it.
        container: Whose providers; by default those of `grelmicro.inject`.
        provider_modules: Modules whose providers are discovered, besides those that the variable
            PROVIDER_MODULES names, `providerconf` in the working directory, and the module that
            calls this.
        health: Whether to add `/livez` and `/readyz`, for which nothing is injected.

    Raises:
        ValueError: It was called for this application already.
    """
    if _has_edge(app):
        raise ValueError("install(): the application has an edge already")
    setattr(app, _EDGE, True)
    caller = sys.modules.get(sys._getframe(1).f_globals.get("__name__", ""))
    edge = _Edge(
        app,
        micro,
        default_container if container is None else container,
        [*provider_modules],
        caller,
    )
    app.router.lifespan_context = edge.lifespan(app.router.lifespan_context)
    add_problems(app)
    serve_from(app, edge.container)
    if health:
        app.router.routes[:0] = edge.own_routes


def _has_edge(app: object) -> bool:
    return hasattr(app, _EDGE)


class _Edge:
    def __init__(
        self,
        app: Starlette,
        micro: Grelmicro | None,
        container: Container,
        modules: list[str | ModuleType],
        caller: ModuleType | None,
    ) -> None:
        self._app = app
        self._micro = micro
        self.container = container
        self._modules = modules
        self._caller = caller
        self._named: set[str] = set()
        self.own_routes = health_routes(micro)

    def lifespan(self, inner: Lifespan) -> Lifespan:
        """The application's lifespan, within those of the composer and of the container."""

        @asynccontextmanager
        async def lifespan(app: Any) -> AsyncGenerator[Any]:
            async with AsyncExitStack() as stack:
                if self._micro is not None:
                    await stack.enter_async_context(self._micro)
                self._prepare()
                await stack.enter_async_context(self.container)
                yield await stack.enter_async_context(inner(app))

        return lifespan

    def _prepare(self) -> None:
        """Declare what there is to inject, and wrap what it is injected into."""
        container = self.container
        container.discover_providers(*self._modules)
        container.discover_defaults()
        if self._caller is not None:
            container.discover_providers(self._caller)
        container.given(request=Request, websocket=WebSocket, connection=object)
        if self._micro is not None:
            self._add_all(self._micro)
        routes = Routes(container, _has_edge)
        routes.wrap(each for each in self._app.router.routes if each not in self.own_routes)
        for below in _mounted(self._app):
            add_problems(below)
            serve_from(below, container)

    def _add_all(self, micro: Grelmicro) -> None:
        """Provide what the composer has, under names that nobody else has taken."""
        for (kind, name), component in micro.serving.items():
            self._add(component, kind if name == "default" else name)
        for provider in micro.providers:
            self._add(provider, provider.short_name)

    def _add(self, value: object, name: str) -> None:
        if name in self._named or name not in self.container:
            self._named.add(name)
            self.container.add(value, name)


def _mounted(app: Any) -> list[Starlette]:
    """Applications below another one that have no edge of their own."""
    found = []
    for route in getattr(app, "routes", ()):
        if isinstance(route, Mount | Host):
            below: Any = route.app
            if isinstance(below, Starlette) and not _has_edge(below):
                found.append(below)
            found += _mounted(below)
    return found
