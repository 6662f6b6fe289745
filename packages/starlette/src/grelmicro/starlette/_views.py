"""Views of functions: what they are called with, and when what was built for them is closed."""

import functools
import inspect
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any, TypeVar

from grelmicro.inject import Consumer, Container
from grelmicro.inject import Scope as Injected
from grelmicro.inject import container as default_container
from starlette.concurrency import run_in_threadpool
from starlette.requests import HTTPConnection
from starlette.types import Receive, Scope, Send

__all__ = ["View", "inject", "is_injected", "streaming"]

F = TypeVar("F", bound=Callable[..., Any])

_INJECTED = "__grelmicro_injected__"
_STREAMING = "__grelmicro_streaming__"

Handler = Callable[..., Awaitable[Any]]


def streaming(view: F) -> F:
    """Keep what is injected into a view until its response is sent; for one that streams.

    An error while it is sent is the view's error, as far as providers are concerned.
    """
    setattr(view, _STREAMING, True)
    return view


def inject(view: F | None = None, /, *, container: Container | None = None) -> Any:
    """Inject into a view by itself, without `install`, or below a decorator that hides it.

    `install` leaves it as it is. The container has to be open when it is called.

    Args:
        view: A function, sync or async; its first positional parameter is the request.
        container: Whose providers; by default those of `grelmicro.inject`.
    """
    if view is None:
        return functools.partial(inject, container=container)
    found = View(default_container if container is None else container, view, names=None)

    @functools.wraps(view)
    async def injected(*args: Any, **kwargs: Any) -> Any:
        connection = next((each for each in args if isinstance(each, HTTPConnection)), None)
        return await found.call(connection, args, kwargs)

    setattr(injected, _INJECTED, True)
    return injected


def is_injected(view: object) -> bool:
    """Whether `inject` is what is called."""
    return getattr(view, _INJECTED, False) is True


class View:
    """A function, sync or async, with what is injected into it for each request.

    Args:
        container: Whose providers.
        function: The view; the first `leading` of its parameters are passed by place.
        names: The path parameters of its route; None where that is not known.
        leading: How many it is called with by place: the request, or `self` and the request.
        autouse: Whether autouse providers run for it.
    """

    def __init__(
        self,
        container: Container,
        function: Callable[..., Any],
        *,
        names: Collection[str] | None,
        leading: int = 1,
        autouse: bool = True,
    ) -> None:
        parameters = [*inspect.signature(function).parameters.values()]
        places = [each for each in parameters if each.kind in _BY_PLACE][:leading]
        self._takes_all = any(each.kind is each.VAR_KEYWORD for each in parameters)
        self._leading = len(places)
        by_name = {each.name for each in parameters if each.kind in _BY_NAME}
        self._taken = by_name - {each.name for each in places}
        given = None if names is None else {*(each.name for each in places), *names}
        own = function if _is_async(function) else _in_thread(function)
        self._is_streaming = getattr(function, _STREAMING, False)
        self.consumer: Consumer = container.consumer(own, given=given, autouse=autouse)
        """What the container knows it by."""
        self._container = container

    async def __call__(self, connection: HTTPConnection) -> Any:
        """Answer a request."""
        return await self.call(connection, (connection,)[: self._leading], {})

    async def call(
        self, connection: HTTPConnection | None, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Call the view; path parameters and what is injected are added."""
        if connection is not None and (found := connection.path_params):
            kwargs = self._of_path(found) | kwargs
        given = self._given(connection)
        if not self._is_streaming:
            return await self.consumer.run(given, args, kwargs)
        scope = self._container.scope(**given or {})
        await scope.__aenter__()
        try:
            response = await self.consumer.run_in(scope, args, kwargs)
        except BaseException as error:
            await scope.__aexit__(type(error), error, error.__traceback__)
            raise
        return Late(response, scope)

    async def call_in(self, scope: Injected, connection: HTTPConnection, *args: Any) -> Any:
        """Call the view in a scope that is open, and stays so."""
        return await self.consumer.run_in(scope, args, self._of_path(connection.path_params))

    def _of_path(self, found: Mapping[str, Any]) -> dict[str, Any]:
        if self._takes_all:
            return dict(found)
        return {name: found[name] for name in found if name in self._taken}

    def _given(self, connection: HTTPConnection | None) -> Mapping[str, Any] | None:
        """What the scope is opened with; nothing where nobody can ask for it."""
        linked = self.consumer.linked
        if connection is None or (linked and not linked.given and not linked.is_shared):
            return None
        return given_by(connection)


def given_by(connection: HTTPConnection) -> dict[str, Any]:
    """What providers can ask for by name."""
    kind = "websocket" if connection.scope["type"] == "websocket" else "request"
    return {kind: connection, "connection": connection}


class Late:
    """A response that closes what was injected when it is sent.

    Args:
        response: The view's.
        injected: What is closed.
    """

    def __init__(self, response: Any, injected: Injected) -> None:
        self._response = response
        self._injected = injected

    def __getattr__(self, name: str) -> Any:
        return getattr(self._response, name)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it, and close."""
        try:
            await self._response(scope, receive, send)
        except BaseException as error:
            await self._injected.__aexit__(type(error), error, error.__traceback__)
            raise
        await self._injected.__aexit__(None, None, None)


_BY_PLACE = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_BY_NAME = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def _is_async(function: Any) -> bool:
    while isinstance(function, functools.partial):
        function = function.func
    call = getattr(function, "__call__", None)  # noqa: B004  # its type is what is asked for
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call)


def _in_thread(function: Callable[..., Any]) -> Handler:
    """A synchronous view runs in a thread, as it does without injection."""

    @functools.wraps(function)
    async def in_thread(*args: Any, **kwargs: Any) -> Any:
        return await run_in_threadpool(function, *args, **kwargs)

    return in_thread
