"""Linear plans: what to build, in which order, for one consumer. A call only runs down the list."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from grelmicro.inject._declarations import Kind
from grelmicro.inject._nodes import Node, Step

__all__ = ["Plan", "in_order", "plan_for"]


class Plan(NamedTuple):
    """Everything that has to be there before a consumer is called."""

    steps: tuple[Step, ...]
    """What is built for the scope, each after what it needs."""
    fixed: dict[Node, Any]
    """Values, and those that stand in by an override."""
    app: tuple[Node, ...]
    """App-scoped nodes that are read."""
    given: tuple[tuple[str, Node], ...]
    """What the scope has to be opened with."""


def in_order(roots: Iterable[Node], is_leaf: Callable[[Node], bool]) -> Iterator[Node]:
    """Every node that `roots` need, each once and after its needs; those of leaves are left out."""
    seen: set[Node] = set()
    path: list[Node] = []
    ahead = [iter(roots)]
    while ahead:
        for node in ahead[-1]:
            if node not in seen:
                seen.add(node)
                path.append(node)
                ahead.append(iter(() if is_leaf(node) else node.needs))
                break
        else:
            ahead.pop()
            if path:
                yield path.pop()


def plan_for(roots: Iterable[Node], stand_ins: Mapping[Node, Any], *, app: bool = False) -> Plan:
    """Compile a plan.

    Args:
        roots: What is asked for, in this order.
        stand_ins: Values in the place of nodes.
        app: Whether app-scoped nodes are what is to be built, rather than read.
    """
    steps, read, given = [], [], []
    fixed: dict[Node, Any] = {}

    def is_leaf(node: Node) -> bool:  # a lazy provider's body is a plan of its own
        return node in stand_ins or node.kind is Kind.LAZY or (node.is_app and not app)

    for node in in_order(roots, is_leaf):
        if node in stand_ins:
            fixed[node] = stand_ins[node]
        elif node.kind is Kind.VALUE:
            fixed[node] = node.declaration.value
        elif node.kind is Kind.GIVEN:
            given.append((node.label, node))
        elif node.is_app and not app:
            read.append(node)
        else:
            steps.append(node.step)
    return Plan(tuple(steps), fixed, tuple(read), tuple(given))
