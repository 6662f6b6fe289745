"""Errors as answers, and whether an application is alive and ready."""

import asyncio
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.websockets import WebSocket
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from grelmicro import Grelmicro
from grelmicro.errors import (
    CircuitBreakerError,
    LockTimeoutError,
    RateLimitExceededError,
    WouldBlockError,
)
from grelmicro.inject import Container
from grelmicro.providers import Provider
from grelmicro.providers.memory import MemoryProvider
from grelmicro.providers.redis import RedisProvider
from grelmicro.resilience import CircuitBreaker, RateLimiter
from grelmicro.starlette import install


def raising(error: Exception) -> Any:
    async def view(request: Request) -> Response:
        raise error

    return view


async def test_a_limiter_s_refusal(serve: Any) -> None:
    limiter = RateLimiter.token_bucket("api", capacity=2, refill_rate=0.1)

    async def view(request: Request) -> Response:
        assert request.client is not None
        await limiter.acquire_or_raise(key=f"secret of {request.client.host}")
        return PlainTextResponse("ok")

    app = Starlette(routes=[Route("/", view)])
    install(app, Grelmicro(uses=[MemoryProvider()]), Container())
    async with serve(app) as client:
        answers = [await client.get("/") for _ in range(3)]
    assert [each.status_code for each in answers] == [200, 200, 429]
    refused = answers[-1]
    assert refused.headers["content-type"] == "application/problem+json"
    assert refused.headers["ratelimit-limit"] == "2"
    assert refused.headers["ratelimit-remaining"] == "0"
    assert 18 <= int(refused.headers["ratelimit-reset"]) <= 20
    assert 9 <= int(refused.headers["retry-after"]) <= 10
    assert refused.json()["status"] == 429
    assert refused.json()["title"] == "Too Many Requests"
    assert "secret" not in refused.text


async def test_an_open_circuit(serve: Any) -> None:
    breaker = CircuitBreaker("upstream", error_threshold=1, reset_timeout=30)

    async def view(request: Request) -> Response:
        async with breaker:
            raise OSError("the password is 1234")

    async def oops(request: Request, error: Exception) -> Response:
        return PlainTextResponse("oops", 502)

    app = Starlette(routes=[Route("/", view)], exception_handlers={OSError: oops})
    install(app, Grelmicro(uses=[MemoryProvider()]), Container())
    async with serve(app) as client:
        first, second = await client.get("/"), await client.get("/")
    assert (first.status_code, second.status_code) == (502, 503)
    assert 29 <= int(second.headers["retry-after"]) <= 30
    assert "1234" not in second.text


@pytest.mark.parametrize(
    ("error", "status", "after"),
    [
        (RateLimitExceededError("k", 0.2), 429, "1"),
        (CircuitBreakerError("b"), 503, None),
        (LockTimeoutError("not free in time"), 503, "1"),
        (WouldBlockError("it is held"), 503, "1"),
    ],
)
async def test_other_errors_also_below_a_mount(
    error: Exception, status: int, after: str | None, serve: Any
) -> None:
    below = Starlette(routes=[Route("/", raising(error))])
    app = Starlette(routes=[Route("/", raising(error)), Mount("/below", below)])
    install(app, container=Container())
    async with serve(app) as client:
        for path in ("/", "/below/"):
            answer = await client.get(path)
            assert (answer.status_code, answer.headers.get("retry-after")) == (status, after)


async def test_a_handler_of_one_s_own_goes_first(serve: Any) -> None:
    async def mine(request: Request, error: Exception) -> Response:
        return PlainTextResponse("mine", 418)

    view = raising(RateLimitExceededError("k", 1))
    app = Starlette(routes=[Route("/", view)], exception_handlers={RateLimitExceededError: mine})
    install(app, container=Container())
    async with serve(app) as client:
        assert (await client.get("/")).status_code == 418


async def test_a_websocket_is_closed_with_try_again_later(serve: Any) -> None:
    async def feed(websocket: WebSocket) -> None:
        await websocket.accept()
        raise RateLimitExceededError("k", 1)

    app = Starlette(routes=[WebSocketRoute("/feed", feed)])
    install(app, container=Container())
    async with serve(app) as client:
        path = client.base_url.copy_with(scheme="ws", path="/feed")
        with pytest.raises(ConnectionClosed) as closed:
            async with connect(str(path)) as socket:
                await socket.recv()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1013


class Slow(Provider):
    short_name = "slow"

    async def ping(self) -> float:
        await asyncio.Event().wait()
        return 0.0


async def test_health(serve: Any, own_redis: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    container = Container()

    @container.provider(autouse=True)
    async def never() -> None:
        raise AssertionError

    redis = RedisProvider(own_redis.url, timeout=1)
    app = Starlette()
    install(app, Grelmicro(uses=[redis, MemoryProvider()]), container, health=True)
    async with serve(app) as client:
        assert (await client.get("/livez")).json() == {"status": "alive"}
        assert (await client.get("/readyz")).json() == {"status": "ready"}
        own_redis.kill()
        away = await client.get("/readyz")
        assert (away.status_code, away.json()["detail"]) == (503, "no sign of life: redis")
        assert (await client.get("/livez")).status_code == 200


async def test_a_backend_that_hangs_is_not_waited_for(
    serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("grelmicro.starlette._health._PATIENCE", 0.05)
    app = Starlette()
    install(app, Grelmicro(uses=[Slow()]), Container(), health=True)
    async with serve(app) as client:
        away = await client.get("/readyz")
    assert (away.status_code, away.json()["detail"]) == (503, "no sign of life: slow")


async def test_without_health_there_is_none(serve: Any) -> None:
    app = Starlette()
    install(app, container=Container())
    async with serve(app) as client:
        assert (await client.get("/livez")).status_code == 404


async def test_a_websocket_that_was_closed_already_is_let_be() -> None:
    sent: list[str] = []

    async def feed(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.close(4000)
        raise RateLimitExceededError("k", 1)

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message["type"])

    app = Starlette(routes=[WebSocketRoute("/feed", feed)])
    install(app, container=Container())
    scope = {"type": "websocket", "path": "/feed", "headers": [], "query_string": b""}
    async with app.router.lifespan_context(app):
        await app(scope, receive, send)  # or it would fail
    assert sent == ["websocket.accept", "websocket.close"]
