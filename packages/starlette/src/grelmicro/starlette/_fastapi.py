"""FastAPI: its own dependencies stay its own, and what is marked with `Provided()` is ours."""

import inspect
from collections.abc import Callable
from typing import Any

from grelmicro.errors import OutOfContextError
from grelmicro.inject import Container
from grelmicro.starlette._views import View
from starlette.requests import HTTPConnection
from starlette.routing import BaseRoute

__all__ = ["Provided", "is_route", "wrap"]


class _Placeholder:
    """What FastAPI resolves a marked parameter to, until the view is called."""


_PLACEHOLDER = _Placeholder()

_CONNECTION = "grelmicro_connection"
"""What the request is passed as where the view does not ask for it."""


def Provided() -> Any:  # noqa: N802  # it is read like fastapi.Depends
    """Mark a parameter of a view as injected: `redis: Annotated[Redis, Provided()]`.

    Raises:
        ImportError: FastAPI is not installed; views of Starlette need no mark.
    """
    try:
        from fastapi import Depends
    except ImportError as error:
        error.add_note("Provided() is for views of FastAPI; those of Starlette need no mark")
        raise
    return Depends(_mark)


async def _mark(connection: HTTPConnection) -> _Placeholder:
    raise OutOfContextError(
        f"a parameter of {connection.url.path} is marked with Provided(), and nothing injects it: "
        "call install(app) before the application starts"
    )


async def _marked(connection: HTTPConnection) -> _Placeholder:
    return _PLACEHOLDER


def is_route(route: BaseRoute) -> bool:
    """Whether FastAPI calls this route's view."""
    return hasattr(route, "dependant")


def wrap(container: Container, route: Any) -> None:
    """Have the view of a route called with what is injected, after FastAPI's own dependencies."""
    from fastapi import routing

    dependant = route.dependant
    marked = {each.name for each in dependant.dependencies if each.call is _mark}
    for each in dependant.dependencies:
        if each.name in marked:
            _change(each, call=_marked)
    own = {*inspect.signature(dependant.call).parameters} - marked
    view = View(container, dependant.call, names=own, leading=0)
    what = "request_param_name" if hasattr(route, "methods") else "websocket_param_name"
    name = getattr(dependant, what)
    _change(dependant, call=_calling(view, name or _CONNECTION), **{what: name or _CONNECTION})
    if hasattr(route, "get_route_handler"):  # it has noted what sort of function the view is
        route.app = routing.request_response(route.get_route_handler())


def _change(dependant: Any, **fields: Any) -> None:
    """Change what FastAPI found out about a function, and forget what follows from it."""
    for name, value in fields.items():
        object.__setattr__(dependant, name, value)
    for name in [name for name in vars(dependant) if name.startswith("is_")]:
        del dependant.__dict__[name]


def _calling(view: View, connection_name: str) -> Callable[..., Any]:
    async def call(**values: Any) -> Any:
        connection = values[connection_name]
        if connection_name == _CONNECTION:
            del values[_CONNECTION]
        own = {name: value for name, value in values.items() if value is not _PLACEHOLDER}
        return await view.call(connection, (), own)

    return call
