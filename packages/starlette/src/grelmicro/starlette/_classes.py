"""Views that are classes."""

from collections.abc import Callable, Collection
from contextlib import AsyncExitStack
from typing import Any

from grelmicro.inject import Container, Scope
from grelmicro.starlette._views import View, opened
from starlette.endpoints import HTTPEndpoint, WebSocketEndpoint
from starlette.requests import Request
from starlette.websockets import WebSocket

__all__ = ["injected_class"]

_VERBS = ("get", "head", "post", "put", "patch", "delete", "options")


def injected_class(container: Container, cls: type, names: Collection[str]) -> type | None:
    """A subclass whose methods are injected into; None for what is no view of Starlette's."""
    made: type
    if issubclass(cls, HTTPEndpoint):
        methods = {verb: _verb(container, getattr(cls, verb), names) for verb in _defined(cls)}
        made = type(cls.__name__, (cls,), methods)
    elif issubclass(cls, WebSocketEndpoint):
        made = _socket(container, cls, names)
    else:
        return None
    for name in ("__name__", "__qualname__", "__module__", "__doc__"):
        setattr(made, name, getattr(cls, name))
    return made


def _defined(cls: type) -> list[str]:
    return [verb for verb in _VERBS if callable(getattr(cls, verb, None))]


def _verb(
    container: Container, function: Callable[..., Any], names: Collection[str]
) -> Callable[..., Any]:
    view = View(container, function, names=names, leading=2)

    async def answer(self: HTTPEndpoint, request: Request) -> Any:
        return await view.call(request, (self, request), {})

    return answer


def _socket(container: Container, cls: Any, names: Collection[str]) -> type:
    """One scope for a connection, opened with it and closed when all its methods have run."""
    connected, received, left = (
        View(container, getattr(cls, name), names=names, leading=leading, autouse=False)
        for name, leading in (("on_connect", 2), ("on_receive", 3), ("on_disconnect", 3))
    )

    class Connection(cls):  # type: ignore[misc]  # a class that is known only now
        async def dispatch(self) -> None:
            async with AsyncExitStack() as self._scopes:
                await super().dispatch()

        async def on_connect(self, websocket: WebSocket) -> None:
            scope = opened(container, websocket)
            self._injected: Scope = await self._scopes.enter_async_context(scope)
            await connected.call_in(self._injected, websocket, self, websocket)

        async def on_receive(self, websocket: WebSocket, data: Any) -> None:
            await received.call_in(self._injected, websocket, self, websocket, data)

        async def on_disconnect(self, websocket: WebSocket, close_code: int) -> None:
            await left.call_in(self._injected, websocket, self, websocket, close_code)

    return Connection
