"""Putting the parts of the multiplexed way together."""

from collections.abc import Callable, Mapping, Sequence

from grelmicro.providers._redis_clients import find_primary, find_slots
from grelmicro.providers._redis_config import RedisConfig
from grelmicro.providers._redis_connection import Connection
from grelmicro.providers._redis_dial import Address, dial
from grelmicro.providers._redis_link import Link
from grelmicro.providers._redis_multiplexed import MultiplexedDoor
from grelmicro.providers._redis_routes import ClusterRoute, Place, Route, SingleRoute

__all__ = ["multiplexed"]

_SHARE = 4
"""How many nodes that are silent may be asked within the timeout for where to go."""


def multiplexed(provider: object, config: RedisConfig) -> MultiplexedDoor:
    """The door of a configuration, on the running loop; no I/O."""
    timeout = config.shortest_timeout
    routes = {"single": _single, "sentinel": _sentinel, "cluster": _cluster}
    return MultiplexedDoor(provider, timeout, routes[config.topology.kind](config, timeout))


def _single(config: RedisConfig, timeout: float) -> Route:
    address = Address(config.topology.options)

    async def reach(changed: Callable[[Connection], None]) -> Connection:
        return await dial(address, timeout=timeout, changed=changed)

    return SingleRoute(Link(reach, most=config.connections))


def _sentinel(config: RedisConfig, timeout: float) -> Route:
    topology = config.topology
    address = Address(topology.options, primary=True)

    async def reach(changed: Callable[[Connection], None]) -> Connection:
        host, port = await find_primary(topology, timeout=timeout / _SHARE)
        return await dial(address.at(host, port), timeout=timeout, changed=changed)

    return SingleRoute(Link(reach, most=config.connections))


def _cluster(config: RedisConfig, timeout: float) -> Route:
    topology = config.topology
    address = Address(topology.options)

    def make_link(place: Place) -> Link:
        there = address.at(*place)

        async def reach(changed: Callable[[Connection], None]) -> Connection:
            return await dial(there, timeout=timeout, changed=changed)

        return Link(reach, most=config.connections)

    async def discover(known: Sequence[Place]) -> Mapping[int, Place]:
        return await find_slots(topology, known, timeout=timeout / _SHARE)

    return ClusterRoute(discover, make_link)
