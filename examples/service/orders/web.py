"""Orders over HTTP; prices are cached, in this process or where GRELMICRO_URL says."""

import asyncio
import os

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from grelmicro import Grelmicro
from grelmicro.cache import JsonSerializer, TTLCache, cached
from grelmicro.providers import autodiscover
from grelmicro.service import asgi, context, plugin
from orders.database import Database
from orders.settings import OrdersConfig


@cached(TTLCache(ttl=60, serializer=JsonSerializer()))
async def price(item: str) -> float | None:
    """What it costs, or None if it is not sold; it takes a while to find out."""
    await asyncio.sleep(0.05)
    return context.get(OrdersConfig).prices.get(item)


async def order(request: Request) -> Response:
    """Take an order."""
    item = str((await request.json())["item"])
    cost = await price(item)
    if cost is None:
        return JSONResponse({"detail": f"there is no {item}"}, status_code=404)
    statement = "INSERT INTO orders (item, price) VALUES (?, ?) RETURNING pk"
    ((pk,),) = await context.get(Database).fetch(statement, item, cost)
    made = {"pk": pk, "item": item, "price": cost, "worker": os.getpid()}
    return JSONResponse(made, status_code=201)


async def orders(_: Request) -> Response:
    """How many there are."""
    ((count,),) = await context.get(Database).fetch("SELECT count(*) FROM orders")
    return JSONResponse({"orders": count})


app = Starlette(routes=[Route("/orders", order, methods=["POST"]), Route("/orders", orders)])


async def prepare(load: plugin.Loader, teardown: plugin.Teardown) -> None:
    """Serve; what was opened first is closed last."""
    await load(".database")
    await teardown.enter(Grelmicro(uses=[autodiscover()]))
    context.add(asgi.App(app))
    await load(asgi)
