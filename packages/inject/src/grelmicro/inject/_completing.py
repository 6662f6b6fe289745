"""`get(Foo, baz=...)`: what depends on the arguments of a call is built for that call alone."""

from collections.abc import Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from grelmicro.inject._declarations import Kind
from grelmicro.inject._nodes import Node, Step, step_of
from grelmicro.inject._plans import in_order

if TYPE_CHECKING:
    from grelmicro.inject._scope import Scope

__all__ = ["complete"]


async def complete(scope: "Scope", target: Node, arguments: Mapping[str, Any]) -> Any:
    """Build `target` with `arguments`: parameters of its own, or what its needs are to be given.

    Raises:
        TypeError: Nothing takes an argument, or one is missing.
    """
    own = {each.name: each for each in target.parameters if each.name in arguments}
    order = [*in_order([target], lambda node: node.is_app or node.kind is Kind.LAZY)]
    given = {
        node: arguments[node.label]
        for node in order
        if node.kind is Kind.GIVEN and node.label in arguments and node.label not in own
    }
    _refuse_unknown(target, arguments.keys() - own.keys() - {node.label for node in given})
    step = _completed(target, {name: arguments[name] for name in own})
    private = _depending([*order[:-1]], given)
    steps = [*(node.step for node in private), step]
    for need in {need: None for each in steps for need in _read_by(each)}:
        if need not in given and need not in private:
            await scope.obtain(need)
    return await scope.build_apart(steps, given)


def _refuse_unknown(target: Node, unknown: Iterable[str]) -> None:
    if target.is_app or (unknown := sorted(unknown)):
        names = "arguments" if target.is_app else " and ".join(map(repr, unknown))
        raise TypeError(f"{target.declaration} takes no {names}")


def _depending(order: list[Node], given: Mapping[Node, Any]) -> dict[Node, None]:
    """Those that what is given for this call makes different, in their order."""
    private: dict[Node, None] = {}
    for node in order:
        if node.kind is not Kind.LAZY and any(n in given or n in private for n in node.needs):
            private[node] = None
    return private


def _completed(target: Node, arguments: Mapping[str, Any]) -> Step:
    """Its step, with some of its parameters filled in already."""
    bound = [each for each in target.bindings if each.node and each.parameter.name not in arguments]
    places = [each.node for each in bound if each.node and not each.parameter.is_keyword]
    names = [
        (each.parameter.name, each.node)
        for each in bound
        if each.node and each.parameter.is_keyword
    ]
    function = partial(target.declaration.function, **arguments)
    return step_of(target, function, places, names)


def _read_by(step: Step) -> Iterable[Node]:
    *_, places, names = step
    return [*places, *(node for _, node in names)]
