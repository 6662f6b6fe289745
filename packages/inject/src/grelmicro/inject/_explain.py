"""The graph in words, and as a drawing."""

from collections.abc import Iterable
from typing import Any

from grelmicro.inject._declarations import Kind
from grelmicro.inject._nodes import Binding, Node
from grelmicro.inject._plans import in_order
from grelmicro.inject._types import UNKNOWN, type_name
from grelmicro.inject._yields import describe_yields

__all__ = ["drawing", "explanation"]

_KINDS = {
    Kind.VALUE: "a value",
    Kind.CALL: "a function",
    Kind.AWAIT: "a coroutine function",
    Kind.GENERATOR: "a generator",
    Kind.ASYNC_GENERATOR: "an async generator",
    Kind.GIVEN: "given to the scope",
}
_GENERATORS = (Kind.GENERATOR, Kind.ASYNC_GENERATOR)


def explanation(title: str, bindings: Iterable[Binding], used: list[Node]) -> str:
    """Where each parameter comes from, and everything that is built for it, in order."""
    bindings = list(bindings)
    roots = [*used, *(each.node for each in bindings if each.node is not None)]
    lines = [title, *(f"  {_argument(each)}" for each in bindings), "in this order:"]
    for node in in_order(roots, lambda _: False):
        if node.body is None:
            lines.append(f"  {_told(node)}")
            lines += [f"    {_argument(each)}" for each in node.bindings]
    return "\n".join(lines)


def _argument(binding: Binding) -> str:
    name, source = binding.parameter.name, binding.node
    return f"{name}: {binding.how if source is None else f'{source.label}, {binding.how}'}"


def _told(node: Node) -> str:
    declaration = node.declaration
    parts = [f"{node.label}: {'app' if node.is_app else 'request'}-scoped", _KINDS[node.kind]]
    if node.type is not UNKNOWN:
        parts.append(f"of type {type_name(node.type)}")
    parts += ["autouse"] * declaration.autouse + ["lazy"] * declaration.lazy
    if node.kind in _GENERATORS:
        parts.append(describe_yields(declaration.function))
    return f"{', '.join(parts)} ({declaration.place})"


def drawing(views: Iterable[tuple[str, list[Node]]], nodes: Iterable[Node]) -> str:
    """A flowchart in Mermaid's language: arrows go to what is needed; app-scoped is round."""
    ids: dict[Any, str] = {}
    lines = ["flowchart LR"]
    for title, roots in views:
        mine = ids.setdefault(title, f"n{len(ids)}")
        lines.append(f'  {mine}[["{_quoted(title)}"]]')
        lines += [f"  {mine} --> {_id(ids, root)}" for root in dict.fromkeys(roots)]
    everything = [*in_order(nodes, lambda _: False)]
    for node in everything:
        left, right = ("([", "])") if node.is_app else ("[", "]")
        if node.body is None:
            lines.append(f'  {_id(ids, node)}{left}"{_quoted(node.label)}"{right}')
            lines += [f"  {_id(ids, node)} --> {_id(ids, need)}" for need in node.needs]
    return "\n".join(lines)


def _id(ids: dict[Any, str], node: Node) -> str:
    return ids.setdefault(node.body or node, f"n{len(ids)}")


def _quoted(text: str) -> str:
    return text.replace('"', "#quot;")
