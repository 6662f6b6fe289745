"""Errors of grelmicro as answers: problem details by RFC 9457."""

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

from grelmicro.errors import (
    CircuitBreakerError,
    LockTimeoutError,
    RateLimitExceededError,
    WouldBlockError,
)
from starlette.applications import Starlette
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.websockets import WebSocket, WebSocketState

__all__ = ["Problem", "add_problems"]

_TRY_AGAIN_LATER = 1013
"""What a WebSocket is closed with (RFC 6455 and its registry)."""


class Problem(Response):
    """A problem in JSON, by RFC 9457.

    Args:
        status: The status code.
        title: What sort of problem it is, the same each time.
        detail: What is the matter now; nothing that is secret.
        headers: More headers.
    """

    media_type = "application/problem+json"

    def __init__(
        self, status: int, title: str, detail: str, headers: Mapping[str, str] | None = None
    ) -> None:
        content = {"type": "about:blank", "title": title, "status": status, "detail": detail}
        headers = {"Cache-Control": "no-store", **(headers or {})}
        super().__init__(json.dumps(content), status, headers)


def add_problems(app: Starlette) -> None:
    """Have an application answer with problems, where it has no handler of its own.

    RateLimitExceededError is 429; CircuitBreakerError, LockTimeoutError and WouldBlockError are
    503. All say when to try again, if that is known. A WebSocket is closed with 1013, try again
    later.
    """
    for error, made in _HANDLERS.items():
        app.exception_handlers.setdefault(error, _handler(made))


def _handler(make: Callable[[Any], Problem]) -> Callable[[HTTPConnection, Exception], Any]:
    async def handle(connection: HTTPConnection, error: Exception) -> Problem | None:
        problem = make(error)
        if not isinstance(connection, WebSocket):
            return problem
        if WebSocketState.DISCONNECTED not in (
            connection.application_state,
            connection.client_state,
        ):
            await connection.close(_TRY_AGAIN_LATER)
        return None

    return handle


def _limited(error: RateLimitExceededError) -> Problem:
    headers = {"Retry-After": _seconds(error.retry_after)}
    if (result := error.result) is not None:
        headers |= {
            "RateLimit-Limit": str(result.limit),
            "RateLimit-Remaining": str(result.remaining),
            "RateLimit-Reset": _seconds(result.reset_after),
        }
    return Problem(429, "Too Many Requests", str(error), headers)


def _broken(error: CircuitBreakerError) -> Problem:
    after = error.retry_after
    headers = None if after is None else {"Retry-After": _seconds(after)}
    return Problem(503, "Service Unavailable", "a service that this one needs is failing", headers)


def _busy(_: LockTimeoutError | WouldBlockError) -> Problem:
    detail = "what is asked for is in use by somebody else"
    return Problem(503, "Service Unavailable", detail, {"Retry-After": "1"})


def _seconds(seconds: float) -> str:
    """Whole seconds, rounded up: nobody is to come too early."""
    return str(max(0, math.ceil(seconds)))


_HANDLERS: Mapping[type[Exception], Callable[[Any], Problem]] = {
    RateLimitExceededError: _limited,
    CircuitBreakerError: _broken,
    LockTimeoutError: _busy,
    WouldBlockError: _busy,
}
