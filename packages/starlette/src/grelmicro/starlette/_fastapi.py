"""FastAPI: what is marked with `Provided()` is one of its dependencies, and comes from a container.

FastAPI decides what a parameter is when a view is declared, long before there is a container. So
the marks are dependencies that find the container of their application when they are called. All of
a request share one scope, which is a dependency too.
"""

import inspect
from collections.abc import AsyncGenerator, Callable
from typing import Any, TypeAlias

from grelmicro.errors import OutOfContextError
from grelmicro.inject import Container, Scope
from grelmicro.starlette._views import given_by
from starlette.requests import HTTPConnection
from starlette.routing import BaseRoute

__all__ = ["Provided", "is_route", "request_scope", "serve_from"]

_STATE = "grelmicro_container"
"""The name of the container in an application's state."""

Key: TypeAlias = Any
"""A type, or the name of a provider."""


def serve_from(app: Any, container: Container) -> None:
    """Let the marks of an application's views find its container."""
    setattr(app.state, _STATE, container)


async def request_scope(connection: HTTPConnection) -> AsyncGenerator[Scope]:
    """The dependency that all marked parameters of a request share.

    Autouse providers run in it: `FastAPI(dependencies=[Depends(request_scope)])` has them run for
    views without any mark.

    Raises:
        OutOfContextError: The application was not installed into.
    """
    container: Container | None = getattr(connection.app.state, _STATE, None)
    if container is None:
        raise OutOfContextError(
            f"{connection.url.path}: nothing is injected into this application: call install(app) "
            "before it starts"
        )
    async with container.scope(**given_by(connection)) as scope:
        yield scope


def Provided(name: str | None = None) -> Any:  # noqa: N802  # it is read like fastapi.Depends
    """Mark a parameter of a FastAPI view as injected.

    `redis: Annotated[Redis, Provided()]`; views of Starlette need no mark.

    Args:
        name: The provider's name; by default the annotated type says which one it is.

    Raises:
        ImportError: FastAPI is not installed.
    """
    try:
        from fastapi import params
    except ImportError as error:
        error.add_note("Provided() is for views of FastAPI; those of Starlette need no mark")
        raise
    return _marks(params.Depends)(_resolver(name) if name is not None else None)


def is_route(route: BaseRoute) -> bool:
    """Whether FastAPI calls this route's view, with its dependencies."""
    return hasattr(route, "dependant")


class _Resolver:
    """A dependency that asks the request's scope for a value.

    Args:
        key: What it asks for.
    """

    def __init__(self, key: Key) -> None:
        from fastapi import params

        self._key = key
        scope: Any = _before_the_response(params.Depends)
        self.__signature__ = inspect.Signature(
            [inspect.Parameter("scope", inspect.Parameter.KEYWORD_ONLY, default=scope)]
        )

    async def __call__(self, scope: Scope) -> Any:
        """The value."""
        return await scope.get(self._key)


def _resolver(key: Key) -> _Resolver:
    return _Resolver(key)


def _before_the_response(depends: Callable[..., Any]) -> Any:
    """The scope's dependency, closed before the response is sent where FastAPI can do that."""
    if "scope" in inspect.signature(depends).parameters:
        return depends(request_scope, scope="function")
    return depends(request_scope)


def _marks(base: Any) -> Any:
    """The class of marks: FastAPI sets the annotated type as what is to be called."""

    class Mark(base):  # type: ignore[misc]  # a class that is known only now
        def __init__(self, dependency: Any = None, *args: Any, **kwargs: Any) -> None:
            super().__init__(_asked(dependency), *args, **kwargs)

        def __setattr__(self, name: str, value: Any) -> None:
            super().__setattr__(name, _asked(value) if name == "dependency" else value)

    return Mark


def _asked(dependency: Any) -> Any:
    is_type = dependency is not None and not isinstance(dependency, _Resolver)
    return _resolver(dependency) if is_type else dependency
