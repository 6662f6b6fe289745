"""A Redis Cluster of own servers."""

import contextlib
import errno
import itertools
import os
from collections.abc import Sequence
from typing import Self

from grelmicro.testing.servers._cluster_view import (
    Seen,
    id_of,
    is_ready,
    knows_all,
    view_of,
)
from grelmicro.testing.servers._ladder import ServerStartError
from grelmicro.testing.servers._ports import LOCALHOST, free_port
from grelmicro.testing.servers._resp import RespError
from grelmicro.testing.servers._wait import ask, wait_until
from grelmicro.testing.servers.redis import RedisServer, redis_server

_SLOTS = 16_384
_BUS_PORT_TRIES = 4
_NODE = (
    "--cluster-enabled yes --cluster-node-timeout 1000 --cluster-replica-validity-factor 0"
    f" --cluster-announce-ip {LOCALHOST} --repl-diskless-sync-delay 0 --shutdown-timeout 0"
).split()


class RedisCluster:
    """A running cluster. As a context manager it stops at the end of the block.

    Each node may be killed, paused, resumed and restarted; a restarted node comes back as a member.
    What waits does so until all nodes that answer agree, and raises TimeoutError after 45 seconds.

    Args:
        nodes: Its servers, joined already.
    """

    def __init__(self, nodes: Sequence[RedisServer]) -> None:
        self.nodes: Sequence[RedisServer] = tuple(nodes)
        places = ",".join(f"{node.host}:{node.port}" for node in self.nodes)
        self.url: str = f"redis+cluster://{places}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End all nodes and remove their folders; twice does no harm."""
        for node in self.nodes:
            node.kill()  # nothing to save, and no primary that waits for its replicas
        for node in self.nodes:
            node.stop()

    @property
    def primaries(self) -> Sequence[RedisServer]:
        """The nodes that answer and have the role of a primary, in the order of `nodes`."""
        roles = {port: view[port].primary for port, view in self._views().items()}
        return [node for node in self.nodes if roles.get(node.port)]

    def slot_of(self, key: str | bytes) -> int:
        """Return the slot of a key, as the first node that answers computes it."""
        slot = ask(self._any(), "CLUSTER", "KEYSLOT", key)
        assert isinstance(slot, int)
        return slot

    def primary_of(self, where: int | str | bytes) -> RedisServer:
        """Return the node that serves a slot or a key, in the view of the first that answers.

        It may be dead, until its replica took over. Raises LookupError where no node serves it.
        """
        slot = where if isinstance(where, int) else self.slot_of(where)
        view = view_of(self._any())
        for node in self.nodes:
            if node.port in view and slot in view[node.port]:
                return node
        raise LookupError(f"nobody serves slot {slot}")

    def failover(self) -> None:
        """Wait until nodes that answer serve every slot and are in sync, and all agree on that.

        After a primary was killed or paused: until its replica was promoted. After a node came
        back: until all take it for a member again.
        """
        wait_until(self._whole, "the nodes that answer are a whole cluster")

    def begin_move(self, slot: int, to: RedisServer) -> None:
        """Open the migration of a slot: its primary answers -ASK for keys that it does not have."""
        source = self.primary_of(slot)
        ask(to, "CLUSTER", "SETSLOT", slot, "IMPORTING", id_of(source))
        ask(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", id_of(to))

    def move_keys(self, slot: int, to: RedisServer) -> None:
        """Move the keys that a slot has, between `begin_move` and `end_move`."""
        source = self.primary_of(slot)
        while keys := ask(source, "CLUSTER", "GETKEYSINSLOT", slot, 100):
            assert isinstance(keys, list)
            ask(source, "MIGRATE", to.host, to.port, "", 0, 1000, "KEYS", *keys)

    def end_move(self, slot: int, to: RedisServer) -> None:
        """Close the migration of a slot: move its keys, and wait until all know the new primary."""
        self.move_keys(slot, to)
        target = id_of(to)
        source = self.primary_of(slot)
        others = [node for node in self.primaries if node.port not in (to.port, source.port)]
        for node in (to, source, *others):
            ask(node, "CLUSTER", "SETSLOT", slot, "NODE", target)
        wait_until(
            lambda: all(slot in view[to.port] for view in self._views().values()),
            f"all know the new primary of slot {slot}",
        )

    def move_slot(self, slot: int, to: RedisServer) -> None:
        """Move a slot with its keys to another primary."""
        self.begin_move(slot, to)
        self.end_move(slot, to)

    def _any(self) -> RedisServer:
        for node in self.nodes:
            with contextlib.suppress(OSError):
                ask(node, "PING")
                return node
        raise ConnectionError("no node of the cluster answers")

    def _views(self) -> dict[int, dict[int, Seen]]:
        """Return how each node that answers sees the nodes, by ports."""
        views = {}
        for node in self.nodes:
            with contextlib.suppress(OSError, RespError):
                views[node.port] = view_of(node)
        return views

    def _whole(self) -> bool:
        views = self._views()
        pictures = {tuple(view.get(port) for port in views) for view in views.values()}
        if len(pictures) != 1:
            return False
        seen = [node for node in pictures.pop() if node and node.healthy]
        return (
            len(seen) == len(views)
            and sum(node.count for node in seen) == _SLOTS
            and all(is_ready(node) for node in self.nodes if node.port in views)
        )


def redis_cluster(
    *, primaries: int = 3, replicas: int = 0, args: Sequence[str] = ()
) -> RedisCluster:
    """Start a cluster of own servers: the first of `redis_server`'s rungs 2 and 3 that is there.

    It takes two to three seconds: no new node serves anything in its first two.

    Args:
        primaries: How many share the slots, in equal ranges; `nodes` begins with them.
        replicas: How many replicas each of them has. A replica takes over two to three seconds
            after its primary died, where three or more primaries were there to vote.
        args: More words for the command line of each, such as `--cluster-require-full-coverage no`.

    Raises:
        ServerUnavailableError: No server program is there; says what to install.
        ServerStartError: A node does not start.
        TimeoutError: The nodes did not become a cluster.
    """
    if primaries < 1 or replicas < 0:
        raise ValueError("a cluster has 1 or more primaries and 0 or more replicas of each")
    with contextlib.ExitStack() as stack:
        count = primaries * (1 + replicas)
        cluster = RedisCluster([stack.enter_context(_node(args)) for _ in range(count)])
        _join(cluster, primaries)
        stack.pop_all()
    return cluster


def _node(args: Sequence[str]) -> RedisServer:
    """Start a node; its bus has a port of its own choice, as 10000 more could be too high."""
    for tries_left in reversed(range(_BUS_PORT_TRIES)):
        try:
            return redis_server(args=[*_NODE, "--cluster-port", str(free_port()), *args])
        except ServerStartError as error:
            if not tries_left or os.strerror(errno.EADDRINUSE) not in str(error):
                raise
    raise AssertionError("unreachable")


def _join(cluster: RedisCluster, primaries: int) -> None:
    """Make a cluster of fresh nodes: the first ones primaries, the others replicas in turn."""
    nodes = cluster.nodes
    for number, node in enumerate(nodes):
        ask(node, "CLUSTER", "SET-CONFIG-EPOCH", number + 1)
    for number, node in enumerate(nodes[:primaries]):
        first, after = (_SLOTS * edge // primaries for edge in (number, number + 1))
        ask(node, "CLUSTER", "ADDSLOTSRANGE", first, after - 1)
    for one, other in itertools.combinations(nodes, 2):
        ask(one, "CLUSTER", "MEET", other.host, other.port, _bus_port(other))
    wait_until(lambda: all(knows_all(node, nodes) for node in nodes), "the nodes know each other")
    for number, node in enumerate(nodes[primaries:]):
        ask(node, "CLUSTER", "REPLICATE", id_of(nodes[number % primaries]))
    cluster.failover()


def _bus_port(node: RedisServer) -> bytes:
    answer = ask(node, "CONFIG", "GET", "cluster-port")
    assert isinstance(answer, list)
    port: bytes = answer[1]
    return port
