"""FastAPI: what is marked with `Provided()` is one of its dependencies, and comes from a container.

FastAPI decides what a parameter is when a view is declared, long before there is a container. So
the marks are dependencies, which learn when the application starts what they stand for. All of a
request share one scope, which is a dependency too.
"""

import inspect
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from typing import Any, NamedTuple

from grelmicro.errors import OutOfContextError
from grelmicro.inject import Consumer, Container, Graph, Scope, uses_of
from grelmicro.starlette._views import is_streaming, opened
from starlette.requests import HTTPConnection
from starlette.routing import BaseRoute

__all__ = ["Marks", "Provided", "effective", "is_route"]

_STATE = "grelmicro_served"
"""What an application's state has its container and its marks under."""


def Provided(name: str | None = None) -> Any:  # noqa: N802  # it is read like fastapi.Depends
    """Have a parameter of a FastAPI view injected.

    `redis: Annotated[Redis, Provided()]` comes from where `redis: Redis` would, if it were a
    parameter of a Starlette view; those need no mark.

    Args:
        name: The provider's name, if it is not to be found by that of the parameter or its type.

    Raises:
        ImportError: FastAPI is not installed.
    """
    try:
        from fastapi import params
    except ImportError as error:
        error.add_note("Provided() is for views of FastAPI; those of Starlette need no mark")
        raise
    return _mark_class(params.Depends)(None if name is None else _Marked(name))


def is_route(route: object) -> bool:
    """Whether FastAPI calls this route's view, with its dependencies."""
    return hasattr(route, "dependant")


def effective(routes: Iterable[BaseRoute]) -> Iterator[Any]:
    """The routes that answer: newer versions of FastAPI make them of what routers include."""
    known = [*routes]
    if not any(hasattr(each, "effective_route_contexts") for each in known):
        yield from known
        return
    from fastapi.routing import iter_route_contexts

    for each in iter_route_contexts(known):
        # The route of a Starlette view in such a router is told under no public name.
        yield each if is_route(each) else getattr(each, "_effective_route", each.route)


class Marks:
    """The marks of an application's views, which are told where their values come from.

    Args:
        container: Whose providers.
    """

    def __init__(self, container: Container) -> None:
        self._container = container
        self._nodes: dict[_Marked | _Used, Any] = {}
        self._seen: dict[int, Any] = {}
        self._dependants: list[Any] = []
        self._consumers: list[tuple[Consumer, dict[str, _Marked]]] = []
        self._users: list[tuple[Consumer, _Used]] = []

    def read(self, route: Any) -> None:
        """Take in a route, once: what is marked has to be there when the container is frozen."""
        dependant = route.dependant
        if self._seen.setdefault(id(dependant), dependant) is dependant:
            self._dependants.append(dependant)
            self._read(dependant)

    def bind(self, graph: Graph) -> None:
        """Tell the marks what they stand for, and have autouse providers run for every view."""
        for consumer, marked in self._consumers:
            for parameter, node, _ in graph.bound[consumer].bindings:
                if parameter.name in marked:
                    self._nodes[marked[parameter.name]] = node
        for consumer, used in self._users:
            self._nodes[used] = graph.bound[consumer].used
        for each in self._dependants:
            if graph.autouse:
                _use_scope(each)
            if is_streaming(each.call):
                _close_late(each)

    def serve(self, app: Any) -> None:
        """Let what is marked in an application's views be found."""
        setattr(app.state, _STATE, (self._container, self._nodes))

    def _read(self, dependant: Any) -> None:
        below = dependant.dependencies
        marked = {each.name: each.call for each in below if isinstance(each.call, _Marked)}
        uses = uses_of(dependant.call)
        if (marked or uses) and inspect.isroutine(dependant.call):
            others = inspect.signature(dependant.call).parameters.keys() - marked.keys()
            names = {name: mark.name for name, mark in marked.items() if mark.name is not None}
            consumer = self._container.consumer(dependant.call, given=others, used=names)
            self._consumers.append((consumer, marked))
            if uses:
                self._users.append((consumer, _used_by(dependant)))
        for each in below:
            self._read(each)


async def request_scope(connection: HTTPConnection) -> AsyncGenerator["_Request"]:
    """The dependency that all marked parameters of a request share.

    Raises:
        OutOfContextError: The application was not installed into.
    """
    served: tuple[Container, dict[_Marked | _Used, Any]] | None
    served = getattr(connection.app.state, _STATE, None)
    if served is None:
        raise OutOfContextError(
            f"{connection.url.path}: nothing is injected into this application: call install(app) "
            "before it starts"
        )
    async with opened(served[0], connection) as scope:
        yield _Request(scope, served[1])


class _Request(NamedTuple):
    """What marks are resolved with."""

    scope: Scope
    nodes: "dict[_Marked | _Used, Any]"


class _Marked:
    """A dependency that asks the request's scope for a value.

    Args:
        key: The name of the provider; or the type, for as long as nobody knows better.
    """

    def __init__(self, key: Any) -> None:
        from fastapi import params

        self._key = key
        self.name: str | None = key if isinstance(key, str) else None
        """The name of the provider, if it was told."""
        self.__signature__ = _asking(params.Depends)

    async def __call__(self, request: _Request) -> Any:
        """The value."""
        if (node := request.nodes.get(self)) is not None:
            return await request.scope.obtain(node)
        return await request.scope.get(self._key)


class _Used:
    """A dependency that has providers run for a view which does not need their values."""

    def __init__(self, depends: Callable[..., Any]) -> None:
        self.__signature__ = _asking(depends)

    async def __call__(self, request: _Request) -> None:
        """Run them."""
        for node in request.nodes[self]:
            await request.scope.obtain(node)


def _asking(depends: Callable[..., Any]) -> inspect.Signature:
    """What asks for the request's scope."""
    default = _before_the_response(depends)
    parameter = inspect.Parameter("request", inspect.Parameter.KEYWORD_ONLY, default=default)
    return inspect.Signature([parameter])


def _before_the_response(depends: Callable[..., Any]) -> Any:
    """The scope's dependency, closed before the response is sent where FastAPI can do that."""
    if "scope" in inspect.signature(depends).parameters:
        return depends(request_scope, scope="function")
    return depends(request_scope)


def _use_scope(dependant: Any) -> None:
    """Have the scope opened for a view before its other dependencies."""
    from fastapi import params

    if not any(each.call is request_scope for each in dependant.dependencies):
        _put_first(dependant, _before_the_response(params.Depends))


def _used_by(dependant: Any) -> _Used:
    """The dependency that stands for `useprovider`; before the view's others, and made once."""
    from fastapi import params

    for each in dependant.dependencies:
        if isinstance(each.call, _Used):
            return each.call
    used = _Used(params.Depends)
    _put_first(dependant, params.Depends(used))
    return used


def _put_first(dependant: Any, depends: Any) -> None:
    from fastapi.dependencies.utils import get_parameterless_sub_dependant

    sub = get_parameterless_sub_dependant(depends=depends, path=dependant.path or "")
    dependant.dependencies.insert(0, sub)


def _close_late(dependant: Any) -> None:
    """Have the scope closed when the response was sent, where FastAPI lets one choose."""
    for each in dependant.dependencies:
        if each.call is request_scope and hasattr(each, "scope"):
            each.scope = "request"
        _close_late(each)


def _mark_class(base: Any) -> Any:
    """The class of marks: FastAPI sets the annotated type as what is to be called."""

    class Mark(base):  # type: ignore[misc]  # a class that is known only now
        def __init__(self, dependency: Any = None, *args: Any, **kwargs: Any) -> None:
            super().__init__(_asked(dependency), *args, **kwargs)

        def __setattr__(self, name: str, value: Any) -> None:
            super().__setattr__(name, _asked(value) if name == "dependency" else value)

    return Mark


def _asked(dependency: Any) -> Any:
    is_type = dependency is not None and not isinstance(dependency, _Marked)
    return _Marked(dependency) if is_type else dependency
