"""What can be wrong with a graph as a whole, and the path on which a view meets it."""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from grelmicro.inject._declarations import Kind
from grelmicro.inject._nodes import LEFT_TO_CALLER, Node

__all__ = ["Fault", "Paths", "cycles", "scope_faults"]


class Fault(NamedTuple):
    """Something wrong with a provider."""

    node: Node
    text: str


def scope_faults(nodes: Iterable[Node]) -> Iterator[Fault]:
    """App-scoped providers that need something which ends with a request."""
    for node in nodes:
        for binding in node.bindings if node.is_app else ():
            need = binding.node
            if need is None or need.is_app or binding.how == LEFT_TO_CALLER:
                continue
            what = need.label if need.kind is Kind.GIVEN else need.declaration
            yield Fault(node, f"it is app-scoped and needs the request-scoped {what}")


def cycles(nodes: Iterable[Node]) -> Iterator[str]:
    """Providers that need themselves, each way once."""
    done: set[Node] = set()
    path: dict[Node, None] = {}
    ahead = [iter([*nodes])]
    while ahead:
        for node in ahead[-1]:
            if node in path:
                yield _cycle([*path], node)
            elif node not in done:
                path[node] = None
                ahead.append(iter(node.needs))
                break
        else:
            ahead.pop()
            if path:
                done.add(path.popitem()[0])


def _cycle(path: list[Node], start: Node) -> str:
    round_ = [node for node in path[path.index(start) :] if node.body is None]
    names = " -> ".join(node.label for node in (*round_, round_[0]))
    places = ", ".join(str(node.declaration) for node in round_)
    return f"{names}: a cycle, of {places}"


class Paths:
    """The shortest ways from views to providers.

    Args:
        roots: What each view asks for, by how messages name the view.
    """

    def __init__(self, roots: Mapping[str, Iterable[Node]]) -> None:
        self._before: dict[Node, Node | str] = {}
        ahead: deque[Node] = deque()
        for name, nodes in roots.items():
            for node in nodes:
                self._reach(node, name, ahead)
        while ahead:
            node = ahead.popleft()
            for need in node.needs:
                self._reach(need, node, ahead)

    def _reach(self, node: Node, before: Node | str, ahead: deque[Node]) -> None:
        if node not in self._before:
            self._before[node] = before
            ahead.append(node)

    def to(self, node: Node) -> str:
        """The way to a node, as text that ends with its declaration."""
        way = [str(node.declaration)]
        before = self._before.get(node)
        while isinstance(before, Node):
            if before.body is None:
                way.append(before.label)
            before = self._before.get(before)
        return " -> ".join([*([before] if before else []), *reversed(way)])
