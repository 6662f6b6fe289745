"""Joining an application, its composer and its container."""

import sys
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Iterator
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    ExitStack,
    asynccontextmanager,
    contextmanager,
    suppress,
)
from types import ModuleType
from typing import Any

from grelmicro import Grelmicro
from grelmicro.errors import ComponentNotRegisteredError
from grelmicro.inject import Container
from grelmicro.inject import container as default_container
from grelmicro.starlette._health import health_routes
from grelmicro.starlette._problems import add_problems
from grelmicro.starlette._routes import InstallError, Routes
from starlette.applications import Starlette
from starlette.requests import HTTPConnection, Request
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

    When the application starts, everything is checked; then `micro` is opened, the container is,
    and the application's own lifespan begins. When it ends, they end in reverse. Views ask for
    providers by the names or the types of their parameters; the first positional one is the request
    or the WebSocket. Providers can ask for `request`, `websocket` or, where either will do,
    `http_connection`, or for these by their types.

    What `micro` has can be injected too, by type or by name: itself as `micro`, components by their
    kind (`cache`) or their own name, providers by their short name (`redis`). What is declared
    under such a name goes first; theirs is then `redis_provider`, `sessions_cache`.

    Args:
        app: An application of Starlette or FastAPI, before it starts.
        micro: The composer, which is opened and closed with it.
        container: Whose providers; by default those of `grelmicro.inject`. Applications that run
            at the same time have one each.
        provider_modules: Modules whose providers are discovered, besides those that the variable
            PROVIDER_MODULES names, `providerconf` in the working directory, and the module that
            calls this.
        health: Whether to add `/livez` and `/readyz`, for which nothing is injected.

    Raises:
        InstallError: It was called for this application already, or is given something else.
    """
    _check(app, micro)
    setattr(app, _EDGE, True)
    caller = sys.modules.get(sys._getframe(1).f_globals.get("__name__", ""))
    modules = [*provider_modules, *([] if caller is None else [caller])]
    edge = _Edge(app, micro, default_container if container is None else container, modules)
    app.router.lifespan_context = edge.lifespan(app.router.lifespan_context)
    add_problems(app)
    if health:
        app.router.routes[:0] = edge.own_routes


def _check(app: object, micro: object) -> None:
    if not isinstance(app, Starlette):
        name = type(app).__name__
        raise InstallError(f"app: expected an application of Starlette or FastAPI, not {name}")
    if not isinstance(micro, Grelmicro | None):
        name = type(micro).__name__
        raise InstallError(f"micro: expected a Grelmicro, not {name}: pass others by container=")
    if _has_edge(app):
        raise InstallError("install(): this application was installed into already")


def _has_edge(app: object) -> bool:
    return hasattr(app, _EDGE)


class _Edge:
    def __init__(
        self,
        app: Starlette,
        micro: Grelmicro | None,
        container: Container,
        modules: list[str | ModuleType],
    ) -> None:
        self._app = app
        self._micro = micro
        self._container = container
        self._modules = modules
        self.own_routes = health_routes(micro)

    def lifespan(self, inner: Lifespan) -> Lifespan:
        """The application's lifespan, within those of the composer and of the container."""

        @asynccontextmanager
        async def lifespan(app: Any) -> AsyncGenerator[Any]:
            with self._prepared():
                async with AsyncExitStack() as stack:
                    if self._micro is not None:
                        await stack.enter_async_context(self._micro)
                    await stack.enter_async_context(self._container)
                    yield await stack.enter_async_context(inner(app))

        return lifespan

    @contextmanager
    def _prepared(self) -> Generator[None]:
        """Declare what there is to inject, wrap what it is injected into, and check all of it."""
        container = self._container
        if container.is_open:
            raise InstallError(
                "the container is open already, by another application or by hand: give each "
                "application its own, as in install(app, container=Container())"
            )
        container.discover_providers(*self._modules)
        container.discover_defaults()
        container.given(request=Request, websocket=WebSocket, http_connection=HTTPConnection)
        container.alias(HTTPConnection, "http_connection")
        with ExitStack() as stack:
            stack.enter_context(self._declared())
            routes = stack.enter_context(self._wrapped())
            stack.callback(container.thaw)
            routes.bind(container.freeze(), self._app)
            for app in routes.apps:
                add_problems(app)
            yield

    @contextmanager
    def _wrapped(self) -> Generator[Routes]:
        """Put the views behind injection; afterwards the container knows nothing of them."""
        container, routes = self._container, Routes(self._container, _has_edge)
        before = {*container.consumers}
        with ExitStack() as stack:
            stack.callback(routes.unwrap)
            try:
                routes.wrap(each for each in self._app.routes if each not in self.own_routes)
            finally:
                stack.callback(container.forget, {*container.consumers} - before)
            yield routes

    @contextmanager
    def _declared(self) -> Generator[None]:
        """Provide what the composer has, under names that nobody else has taken."""
        container, ours = self._container, list[str]()
        for value, *names in _parts(self._micro):
            if name := next((each for each in names if each not in container), None):
                container.add(value, name)
                ours.append(name)
        try:
            yield
        finally:
            for name in ours:
                container.remove(name)


def _parts(micro: Grelmicro | None) -> Iterator[tuple[Any, str, str]]:
    """What a composer has, each with the name it should have and another one."""
    if micro is None:
        return
    yield micro, "micro", "grelmicro"
    for provider in micro.providers:
        yield provider, provider.short_name, f"{provider.short_name}_provider"
        for kind in provider.supports:
            with suppress(ComponentNotRegisteredError):  # it is the composer that knows
                micro.get(kind)  # components that nobody has listed are there once asked for
    for (kind, name), component in micro.serving.items():
        own = kind if name == "default" else name
        yield component, own, f"{name}_{kind}"
