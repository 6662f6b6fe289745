"""A replica of the payment service: `BANK=http://... python payments.py SOCKET`.

Its limiter and its breaker are those of all replicas, on what GRELMICRO_URL names.
"""

import asyncio
import os
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from grelmicro import Grelmicro
from grelmicro.providers import autodiscover
from grelmicro.resilience import CircuitBreaker, RateLimiter
from grelmicro.starlette import Problem, install

PER_SECOND = 60
PATIENCE = 0.5
ERRORS = 3

limiter = RateLimiter.sliding_window("payments", limit=PER_SECOND, window=1)
bank = CircuitBreaker("bank", error_threshold=ERRORS, success_threshold=2, reset_timeout=1)


async def pay(request: Request) -> Response:
    """Charge a customer: 429 when there are too many, 503 while the bank is known to be ill."""
    await limiter.acquire_or_raise(key="all")
    async with bank, asyncio.timeout(PATIENCE):
        answer = await request.state.client.post("/charge")
        answer.raise_for_status()
    return JSONResponse({"paid": True})


async def state(request: Request) -> Response:
    """What this replica makes of the bank."""
    return JSONResponse({"bank": bank.state})


async def bank_failed(request: Request, error: Exception) -> Response:
    """The bank was asked, and did not do it."""
    return Problem(502, "Bad Gateway", f"the bank failed: {type(error).__name__}")


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncGenerator[dict[str, httpx.AsyncClient]]:
    """One client for all requests."""
    async with httpx.AsyncClient(base_url=os.environ["BANK"]) as client:
        yield {"client": client}


app = Starlette(
    routes=[Route("/pay", pay, methods=["POST"]), Route("/state", state)],
    lifespan=lifespan,
    exception_handlers={httpx.HTTPError: bank_failed, TimeoutError: bank_failed},
)

if __name__ == "__main__":
    install(app, Grelmicro(uses=[autodiscover()]), health=True)
    uvicorn.run(app, fd=int(sys.argv[1]), log_level="warning")
