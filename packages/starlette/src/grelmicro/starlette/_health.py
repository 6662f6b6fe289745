"""Whether an application lives, and whether it is ready."""

import asyncio
import logging

from grelmicro import Grelmicro
from grelmicro.providers import Provider
from grelmicro.starlette._problems import Problem
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

__all__ = ["health_routes"]

_log = logging.getLogger("grelmicro.starlette")

_PATIENCE = 2.0
"""Seconds that a backend has for its sign of life."""


def health_routes(micro: Grelmicro | None) -> list[Route]:
    """The routes `/livez`, which needs nothing, and `/readyz`, which asks every backend."""

    async def livez(request: Request) -> Response:
        return JSONResponse({"status": "alive"})

    async def readyz(request: Request) -> Response:
        providers = micro.providers if micro is not None else ()
        if micro is not None and not micro.is_open:
            return Problem(503, "Service Unavailable", "the application is not open")
        answers = await asyncio.gather(*map(_answers, providers))
        silent = [
            each.short_name for each, there in zip(providers, answers, strict=True) if not there
        ]
        if silent:
            detail = f"no sign of life: {', '.join(silent)}"
            return Problem(503, "Service Unavailable", detail)
        return JSONResponse({"status": "ready"})

    return [
        Route("/livez", livez, include_in_schema=False),
        Route("/readyz", readyz, include_in_schema=False),
    ]


async def _answers(provider: Provider) -> bool:
    try:
        async with asyncio.timeout(_PATIENCE):
            await provider.ping()
    except NotImplementedError:  # it cannot be asked
        return True
    except Exception as error:  # whatever it is, it gives no sign of life
        _log.warning("%r gives no sign of life: %s", provider, error or type(error).__name__)
        return False
    return True
