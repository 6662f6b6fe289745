"""What redis-py is asked to make and to find: its clients, the primary of the day, slot maps."""

import random
from collections.abc import Mapping, Sequence
from typing import Any, cast

from redis.asyncio import (
    BlockingConnectionPool,
    ConnectionPool,
    Redis,
    RedisCluster,
    Sentinel,
    SSLConnection,
)
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import SentinelConnectionPool
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisClusterException
from redis.exceptions import TimeoutError as RedisTimeoutError

from grelmicro.providers._redis_urls import Topology

__all__ = ["close_client", "find_primary", "find_slots", "make_client", "make_node_client"]

Place = tuple[str, int]


def make_client(
    topology: Topology, *, timeout: float, max_connections: int
) -> "Redis | RedisCluster":
    """A client of redis-py, which connects when it is used.

    It repeats nothing by itself: a write whose reply was lost may have been done.
    """
    options: dict[str, Any] = {
        **_bounds(timeout),
        # With RESP3 redis-py 8 listens for notices of maintenance, and then sends commands on
        # connections that the server has closed: after a restart, a write would fail on each.
        "protocol": 2,
        "max_connections": max_connections,
        **topology.options,
        "retry": _never(),
    }
    if topology.kind == "cluster":
        # It would end all connections, those in use too, at every fifth slot that has moved.
        options["reinitialize_steps"] = 0
        return RedisCluster(startup_nodes=_nodes(topology.places), **_cluster_options(options))
    if topology.kind == "sentinel":
        sentinel = _sentinel(topology, timeout)
        return cast("Redis", sentinel.master_for(topology.service, **_flat(options)))
    options.setdefault("timeout", timeout)  # for a connection of the pool
    return Redis.from_pool(BlockingConnectionPool(**options))


def make_node_client(topology: Topology, *, timeout: float) -> Redis:
    """A client of any one node of a cluster that has connections of its own."""
    host, port = random.choice(topology.places)  # noqa: S311  # no secret
    options: dict[str, Any] = {**_bounds(timeout), "protocol": 2, **topology.options}
    options |= {"host": host, "port": port, "retry": _never()}
    return Redis.from_pool(ConnectionPool(**options))


async def close_client(client: "Redis | RedisCluster") -> None:
    """End all connections of a client, those to its sentinels too."""
    await client.aclose()
    pool = getattr(client, "connection_pool", None)
    if isinstance(pool, SentinelConnectionPool):
        await _close_all(pool.sentinel_manager.sentinels)


async def find_primary(topology: Topology, *, timeout: float) -> Place:
    """Ask the sentinels, one after the other, who is primary.

    Args:
        topology: The sentinels, and the name of the service.
        timeout: Seconds that each may take.

    Raises:
        redis.exceptions.ConnectionError: No sentinel answers, or none knows a primary.
    """
    sentinel = _sentinel(topology, timeout)
    try:
        host, port = await sentinel.discover_master(topology.service)
    except RedisTimeoutError as error:
        raise RedisConnectionError(f"no sentinel answered: {error}") from error
    finally:
        await _close_all(sentinel.sentinels)
    return str(host), int(port)


async def find_slots(
    topology: Topology, known: Sequence[Place], *, timeout: float
) -> Mapping[int, Place]:
    """Ask a node of the cluster which primary has each slot.

    Args:
        topology: The nodes to begin with.
        known: More nodes to ask.
        timeout: Seconds that each may take.

    Raises:
        redis.exceptions.ConnectionError: No node answers.
    """
    options = {**_bounds(timeout), "protocol": 2, **topology.options, "retry": _never()}
    nodes = _nodes([*dict.fromkeys([*topology.places, *known])])
    client = RedisCluster(
        startup_nodes=nodes, require_full_coverage=False, **_cluster_options(options)
    )
    try:
        async with client:
            found = client.nodes_manager.slots_cache
            return {slot: (str(of[0].host), int(of[0].port)) for slot, of in found.items()}
    except (RedisClusterException, RedisTimeoutError) as error:
        raise RedisConnectionError(f"no node of the cluster answered: {error}") from error


def _bounds(timeout: float) -> dict[str, Any]:
    return {"socket_timeout": timeout, "socket_connect_timeout": timeout}


def _never() -> Retry:
    return Retry(NoBackoff(), 0)


def _nodes(places: Sequence[Place]) -> list[ClusterNode]:
    return [ClusterNode(host, port) for host, port in places]


def _flat(options: dict[str, Any]) -> dict[str, Any]:
    """Options for a client that makes its connections itself: TLS is a flag."""
    rest = {name: value for name, value in options.items() if name not in ("host", "port")}
    is_tls = rest.pop("connection_class", None) is SSLConnection
    return {**rest, "ssl": True} if is_tls else rest


def _cluster_options(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in _flat(options).items() if name != "db"}


def _sentinel(topology: Topology, timeout: float) -> Sentinel:
    how = {**_bounds(timeout), **_flat(topology.sentinel_options), "retry": _never()}
    return Sentinel(topology.places, sentinel_kwargs=how)  # type: ignore[no-untyped-call]  # redis-py's own


async def _close_all(clients: Sequence[Redis]) -> None:
    for client in clients:
        await client.aclose()
