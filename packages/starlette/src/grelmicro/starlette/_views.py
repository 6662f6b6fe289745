"""Views of functions: what they are called with, and when what was built for them is closed."""

import asyncio
import contextlib
import functools
import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Coroutine, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Protocol, TypeVar, overload

from anyio import CancelScope

from grelmicro.inject import Consumer, Container
from grelmicro.inject import Scope as Injected
from grelmicro.inject import container as default_container
from grelmicro.starlette._shield import close
from starlette.concurrency import run_in_threadpool
from starlette.requests import HTTPConnection
from starlette.types import Receive, Scope, Send

__all__ = ["View", "given_by", "inject", "is_injected", "is_streaming", "opened", "streaming"]

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")

Answering = Callable[..., Coroutine[Any, Any, T]]

_INJECTED = "__grelmicro_injected__"
_STREAMING = "__grelmicro_streaming__"
_BY_PLACE = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_BY_NAME = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class Injecting(Protocol):
    """What `inject(container=...)` decorates with."""

    @overload
    def __call__(self, view: Callable[..., Coroutine[Any, Any, T]], /) -> Answering[T]: ...

    @overload
    def __call__(self, view: Callable[..., T], /) -> Answering[T]: ...


def streaming(view: F) -> F:
    """Keep what is injected into a view until its response is sent; for one that streams.

    An error while it is sent is the view's error, as far as providers are concerned.
    """
    setattr(view, _STREAMING, True)
    return view


@overload
def inject(
    view: Callable[..., Coroutine[Any, Any, T]], /, *, container: Container | None = None
) -> Answering[T]: ...


@overload
def inject(view: Callable[..., T], /, *, container: Container | None = None) -> Answering[T]: ...


@overload
def inject(*, container: Container | None = None) -> Injecting: ...


def inject(
    view: Callable[..., Any] | None = None, /, *, container: Container | None = None
) -> Callable[..., Any]:
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
        passed = (*args, *kwargs.values())
        connection = next((each for each in passed if isinstance(each, HTTPConnection)), None)
        return await found.call(connection, args, kwargs)

    found.consumer.marked = injected
    setattr(injected, _INJECTED, True)
    return injected


def is_injected(view: object) -> bool:
    """Whether `inject` is what is called."""
    return getattr(view, _INJECTED, False) is True


def is_streaming(view: object) -> bool:
    """Whether what is injected is kept until the response was sent."""
    return getattr(view, _STREAMING, False) is True


@asynccontextmanager
async def opened(container: Container, connection: HTTPConnection) -> AsyncGenerator[Injected]:
    """A scope for a connection, which outlives a view."""
    async with container.scope(**given_by(connection)) as scope:
        try:
            yield scope
        except BaseException as error:
            await close(scope, error)
            raise


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
        kinds = {each.kind for each in parameters}
        places = [each.name for each in parameters if each.kind in _BY_PLACE][:leading]
        self._leading = leading if inspect.Parameter.VAR_POSITIONAL in kinds else len(places)
        self._takes_all = inspect.Parameter.VAR_KEYWORD in kinds
        self._taken = {each.name for each in parameters if each.kind in _BY_NAME} - {*places}
        given = None if names is None else {*places, *names, *_filled_in(function)}
        own = function if _is_async(function) else _in_thread(function)
        self._container = container
        self.consumer: Consumer = container.consumer(own, given=given, autouse=autouse)
        """What the container knows it by."""
        self.consumer.marked = _innermost(function)

    def handler(self) -> Callable[[HTTPConnection], Coroutine[Any, Any, Any]]:
        """What answers a request: every one passes through, so nothing else is between."""
        run, linking, leading = self.consumer.run, self.consumer, self._leading
        is_late = is_streaming(linking.marked)

        async def handle(connection: HTTPConnection) -> Any:
            args = (connection,) if leading else ()
            if is_late:
                return await self._call_until_sent(connection, args, {})
            found = connection.scope.get("path_params")
            kwargs = self._of_path(found) if found else {}
            linked = linking.linked
            if linked is not None and not linked.given and not linked.is_shared:
                return await run(None, args, kwargs, close)
            return await run(given_by(connection), args, kwargs, close)

        return handle

    async def call(
        self, connection: HTTPConnection | None, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Call the view; path parameters and what is injected are added."""
        if connection is None:
            return await self.consumer.run(None, args, kwargs, close)
        if is_streaming(self.consumer.marked):
            return await self._call_until_sent(connection, args, kwargs)
        kwargs = self._of_path(connection.path_params) | kwargs
        return await self.consumer.run(given_by(connection), args, kwargs, close)

    async def call_in(self, scope: Injected, connection: HTTPConnection, *args: Any) -> Any:
        """Call the view in a scope that is open, and stays so."""
        return await self.consumer.run_in(scope, args, self._of_path(connection.path_params))

    async def _call_until_sent(
        self, connection: HTTPConnection, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> "_Late":
        kwargs = self._of_path(connection.path_params) | kwargs
        async with AsyncExitStack() as stack:
            scope = await stack.enter_async_context(opened(self._container, connection))
            response = await self.consumer.run_in(scope, args, kwargs)
            return _Late(response, stack.pop_all())

    def _of_path(self, found: Mapping[str, Any]) -> dict[str, Any]:
        if self._takes_all:
            return dict(found)
        return {name: found[name] for name in found if name in self._taken}


def given_by(connection: HTTPConnection) -> dict[str, Any]:
    """What providers can ask for by name."""
    kind = "websocket" if connection.scope["type"] == "websocket" else "request"
    return {kind: connection, "http_connection": connection}


class _Late:
    """A response that closes what was injected when it is sent."""

    def __init__(self, response: Any, injected: AsyncExitStack) -> None:
        self._response = response
        self._injected = injected

    def __getattr__(self, name: str) -> Any:
        return getattr(self._response, name)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it, and close."""
        async with self._injected:
            await self._response(scope, receive, send)


def _innermost(function: Any) -> Any:
    while isinstance(function, functools.partial):
        function = function.func
    return function


def _filled_in(function: Any) -> set[str]:
    """What a `functools.partial` passes by itself."""
    names: set[str] = set()
    while isinstance(function, functools.partial):
        names |= function.keywords.keys()
        function = function.func
    return names


def _is_async(function: Any) -> bool:
    function = _innermost(function)
    call = getattr(function, "__call__", None)  # noqa: B004  # its type is what is asked for
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call)


def _in_thread(function: Callable[..., Any]) -> Callable[..., Awaitable[Any]]:
    """A synchronous view runs in a thread, as it does without injection.

    A thread cannot be cancelled: what it works with must not be closed before it ends.
    """

    @functools.wraps(function)
    async def in_thread(*args: Any, **kwargs: Any) -> Any:
        thread = asyncio.ensure_future(run_in_threadpool(function, *args, **kwargs))
        try:
            return await asyncio.shield(thread)
        finally:
            if not thread.done():
                await _ended(thread)

    return in_thread


async def _ended(thread: asyncio.Future[Any]) -> None:
    with CancelScope(shield=True):
        while not thread.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([thread])
    if not thread.cancelled():
        thread.exception()  # nobody is there any more to hear of it
