"""A product catalogue with a slow origin, and a cache in front of it.

    uvicorn app:app

Entries are in the memory of this process. GRELMICRO_URL=redis://localhost:6379/0 moves them to a
Redis, where all processes share them; nothing here changes.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import asdict

from origin import Origin, Product
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from grelmicro import Grelmicro
from grelmicro.cache import JsonSerializer, TTLCache, cached
from grelmicro.providers import autodiscover

products: TTLCache[Product | None] = TTLCache(ttl=60, serializer=JsonSerializer(), name="products")
origin = Origin()


@cached(products, lock=True)
async def find_product(product_id: int) -> Product | None:
    """Ask the origin, once for all who want the product at the same time."""
    return await origin.find(product_id)


async def product(request: Request) -> Response:
    """Answer by way of the cache."""
    return answer(await find_product(request.path_params["product_id"]))


async def product_uncached(request: Request) -> Response:
    """Answer from the origin, for comparison."""
    return answer(await origin.find(request.path_params["product_id"]))


def answer(found: Product | None) -> Response:
    """A product, or 404; that there is none is cached like any other answer."""
    return JSONResponse(found, status_code=200 if found else 404)


async def cache_info(_: Request) -> Response:
    """What the cache and the origin have done in this process."""
    return JSONResponse({**asdict(products.cache_info()), "origin_calls": origin.calls})


async def cache_clear(_: Request) -> Response:
    """Forget all products, in every process that shares the backend."""
    await products.clear()
    return Response(status_code=204)


@asynccontextmanager
async def lifespan(_: Starlette) -> AsyncGenerator[None]:
    """Open the origin, and the backend that GRELMICRO_URL names, for as long as the app runs."""
    async with Grelmicro(uses=[origin, autodiscover()]):
        yield


app = Starlette(
    lifespan=lifespan,
    routes=[
        Route("/products/{product_id:int}", product),
        Route("/uncached/{product_id:int}", product_uncached),
        Route("/cache", cache_info),
        Route("/cache", cache_clear, methods=["DELETE"]),
    ],
)
