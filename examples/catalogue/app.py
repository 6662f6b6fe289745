"""A product catalogue whose origin is slow, and whose answers are cached.

uvicorn app:app                                     # in this process's memory
GRELMICRO_URL=redis://localhost:6379/0 uvicorn app:app     # in Redis, shared by all workers
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from grelmicro import Grelmicro
from grelmicro.cache import JsonSerializer, TTLCache, cached
from grelmicro.providers import autodiscover
from origin import Origin, Product, open_origin
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

products: TTLCache[Product | None] = TTLCache(ttl=60, serializer=JsonSerializer(), name="products")
origin: Origin


@cached(products, key="{product_id}", lock=True)
async def find_product(product_id: int) -> Product | None:
    """Find a product, by one query for all who ask at the same time."""
    return await origin.find(product_id)


async def product(request: Request) -> JSONResponse:
    """Answer from the cache."""
    return _answer(await find_product(request.path_params["product_id"]))


async def product_uncached(request: Request) -> JSONResponse:
    """Answer from the origin, always."""
    return _answer(await origin.find(request.path_params["product_id"]))


async def stats(request: Request) -> JSONResponse:
    """What cache and origin have done so far."""
    info = products.cache_info()
    return JSONResponse({"hits": info.hits, "misses": info.misses, "origin_calls": origin.calls})


def _answer(found: Product | None) -> JSONResponse:
    return JSONResponse(found, status_code=404 if found is None else 200)


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncGenerator[None, None]:
    """Open the origin, and whatever backend GRELMICRO_URL names, before the first request."""
    global origin
    provider = autodiscover()
    async with open_origin() as origin, Grelmicro(uses=[provider]):
        await provider.ping()  # better not to start than to start without a cache
        await products.clear()
        yield


app = Starlette(
    routes=[
        Route("/products/{product_id:int}", product),
        Route("/uncached/{product_id:int}", product_uncached),
        Route("/stats", stats),
    ],
    lifespan=lifespan,
)
