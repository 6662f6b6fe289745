"""How a node of a Redis Cluster sees the nodes."""

from collections.abc import Sequence
from dataclasses import dataclass

from grelmicro.testing.servers._resp import RespError
from grelmicro.testing.servers._server import Server
from grelmicro.testing.servers._wait import ask_text, info


@dataclass(frozen=True)
class Seen:
    """A node as another sees it; a container of slot numbers.

    Attributes:
        id: Its name in the cluster.
        primary: Whether it is a primary.
        healthy: Whether the other is connected to it and does not suspect it.
        slots: What it serves: `7` or `7-9`.
    """

    id: str
    primary: bool
    healthy: bool
    slots: tuple[str, ...]

    def __contains__(self, slot: int) -> bool:
        return any(first <= slot <= last for first, last in self._spans)

    @property
    def count(self) -> int:
        """How many slots it serves."""
        return sum(last - first + 1 for first, last in self._spans)

    @property
    def _spans(self) -> list[tuple[int, int]]:
        words = [word.partition("-") for word in self.slots]
        return [(int(first), int(last or first)) for first, _, last in words]


def view_of(node: Server) -> dict[int, Seen]:
    """Return how a node sees each, by ports.

    Raises:
        OSError: It does not answer.
        RespError: It is no node of a cluster, or not yet.
    """
    lines = [line.split() for line in ask_text(node, "CLUSTER", "NODES").splitlines()]
    return {int(words[1].partition("@")[0].rpartition(":")[2]): _seen(words) for words in lines}


def _seen(words: list[str]) -> Seen:
    """Read a line: id, address, flags, primary's id, two times, epoch, link, and slots."""
    flags = set(words[2].split(","))
    healthy = words[7] == "connected" and not flags & {"fail", "fail?", "handshake", "noaddr"}
    slots = tuple(word for word in words[8:] if not word.startswith("["))
    return Seen(words[0], "master" in flags, healthy, slots)


def knows_all(node: Server, nodes: Sequence[Server]) -> bool:
    """Whether a node sees all nodes, and finds them well; raises as `view_of`."""
    view = view_of(node)
    return all(other.port in view and view[other.port].healthy for other in nodes)


def is_ready(node: Server) -> bool:
    """Whether a node serves, and is in sync where it is a replica."""
    try:
        state = ask_text(node, "CLUSTER", "INFO").splitlines()
        return "cluster_state:ok" in state and info(node).get("master_link_status", "up") == "up"
    except (OSError, RespError):
        return False


def id_of(node: Server) -> str:
    """Return the name of a node in its cluster; raises as `view_of`."""
    return ask_text(node, "CLUSTER", "MYID")
