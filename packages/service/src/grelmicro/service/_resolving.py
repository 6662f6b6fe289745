"""Which value each parameter gets, when something is injected from a context.

1. The keyword of the parameter's name.
2. The component of its type that has its name.
3. The component of its type that has no name.
4. An adapter of its type: the first, in the order of registration, whose needs can be met.
5. The default.
6. Else it cannot be met.
"""

import types
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from inspect import ismethod
from typing import Any, Self, TypeVar, Union, cast, get_args, get_origin

from grelmicro.inject import GraphError, ProviderNotFoundError
from grelmicro.inject.engine import (
    EMPTY,
    UNKNOWN,
    Binding,
    Host,
    Kind,
    Node,
    Parameter,
    Scope,
    Step,
    Unresolved,
    adapter_of,
    given_node,
    in_order,
    node_of,
    plan_for,
    serves,
    type_name,
)
from grelmicro.service.context import Context

__all__ = ["Plan", "Resolver"]

_MISSING: Any = object()
_UNIONS = (Union, types.UnionType)
_NOBODY = cast("Host", None)
"""A scope asks its host for what is lazy or to be closed, and adapters make neither."""


class Unmet(Exception):  # noqa: N818 - it is collected, not raised to users
    """Why a parameter or a type cannot be had."""


class Cycle(Unmet):
    """It needs itself."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do for one kind of call, as long as the context is as it was."""

    target: Node
    steps: tuple[Step, ...]
    constants: dict[Node, Any]
    given: tuple[tuple[str, Node], ...]
    """What the call's keywords are put in for."""

    async def run(self, keywords: Mapping[str, Any]) -> Any:
        """Build everything; the target's value."""
        return (await self.values(keywords))[self.target]

    async def values(self, keywords: Mapping[str, Any]) -> dict[Node, Any]:
        """Build everything; all values."""
        values = self.constants.copy()
        for name, node in self.given:
            values[node] = keywords[name]
        await Scope(_NOBODY, values).build_alone(self.steps)
        return values


class Resolver:
    """Binds what one kind of call needs.

    Args:
        context: Where components and adapters are.
        keywords: The names of the call's keywords.
    """

    def __init__(self, context: Context, keywords: Collection[str] = ()) -> None:
        self._context = context
        self._keywords = {name: given_node(name, UNKNOWN) for name in keywords}
        self._adapters = [adapter for layer in context.layers for adapter in layer.adapters]
        self._constants: dict[int, Node] = {}
        self._components: dict[Node, Any] = {}
        self._bound: dict[Any, Node] = {}
        self._path: list[Node] = []
        self._cycle: str | None = None

    def plan_of(self, wanted: Any) -> Plan:
        """The plan that makes a value of a type.

        Raises:
            ProviderNotFoundError: No adapter makes it, or none whose needs can be met.
            GraphError: An adapter needs itself.
            TypeError: Nothing takes a keyword.
        """
        reasons: list[str] = []
        left: set[str] = set()
        for node in self._candidates(wanted, reasons):
            unused = self._keywords.keys() - self._used_by([node])
            if not unused:
                return self._plan(node, [node])
            left = left or unused
        if left:
            raise TypeError(f"nject({type_name(wanted)}): nothing takes {_listed(left)}")
        raise self._error(f"nject({type_name(wanted)})", reasons)

    def plan_for_call(self, node: Node, what: str) -> Plan:
        """The plan that makes the arguments of a function, which is a node that is not built.

        Raises:
            ProviderNotFoundError: Something it asks for cannot be had.
            GraphError: An adapter needs itself.
        """
        try:
            self._bind(node)
        except Unmet as reason:
            raise self._error(what, [str(reason)]) from None
        return self._plan(node, node.needs)

    def _plan(self, target: Node, roots: list[Node]) -> Plan:
        plan = plan_for(roots, self._components)
        return Plan(target, plan.steps, plan.fixed, plan.given)

    def _error(self, what: str, reasons: list[str]) -> Exception:
        if self._cycle is not None:
            return GraphError([self._cycle])
        why = "; ".join(reasons) or "nothing makes it: register an adapter, or add a component"
        return ProviderNotFoundError(f"{what}: {why}")

    def _used_by(self, roots: Iterable[Node]) -> set[str]:
        reached = in_order(roots, lambda node: node in self._components)
        return {node.label for node in reached if node.kind is Kind.GIVEN}

    def _bind(self, node: Node) -> Node:
        """Find out where each parameter of a node comes from."""
        self._path.append(node)
        try:
            node.bind([self._binding(each) for each in node.parameters])
        finally:
            self._path.pop()
        return node

    def _binding(self, parameter: Parameter) -> Binding:
        if (given := self._keywords.get(parameter.name)) is not None:
            return Binding(parameter, given, "a keyword")
        choices = [*_choices(parameter.annotation)]
        if (component := self._component(choices, parameter.name)) is not None:
            return Binding(parameter, component, "a component")
        reasons: list[str] = []
        for wanted in choices:
            for node in self._candidates(wanted, reasons):
                return Binding(parameter, node, "an adapter")
        if parameter.default is not EMPTY:
            return Binding(parameter, None, "its default")
        raise Unmet(f"{_asked(parameter)} cannot be had{_because(reasons)}")

    def _component(self, choices: list[Any], name: str) -> Node | None:
        for key in (name, None):
            for wanted in choices:
                found = self._context.get(get_origin(wanted) or wanted, name=key, default=_MISSING)
                if found is not _MISSING and (not get_args(wanted) or serves(type(found), wanted)):
                    return self._constant(found)
        return None

    def _constant(self, component: Any) -> Node:
        """The node of a component: one, however many parameters it is for."""
        node = self._constants.get(id(component))
        if node is None:
            node = given_node(type(component).__qualname__, type(component))
            self._constants[id(component)] = node
            self._components[node] = component
        return node

    def _candidates(self, wanted: Any, reasons: list[str]) -> Iterator[Node]:
        """The adapters that make a type and whose needs can be met; why others' cannot."""
        for adapter in self._adapters:
            node = self._adapting(adapter, wanted)
            if node is None:
                continue
            try:
                yield self._met(node)
            except Unmet as reason:
                reasons.append(f"{node.declaration}: {reason}")

    def _adapting(self, adapter: Any, wanted: Any) -> Node | None:
        """The node of an adapter, if what it returns serves as the type."""
        node = self._node(adapter)
        if not _is_generic(adapter, node.type):
            return node if serves(node.type, wanted) else None
        cls = get_origin(wanted) or wanted
        if not (isinstance(cls, type) and issubclass(cls, adapter.__self__)):
            return None
        return self._node(getattr(cls, adapter.__name__))

    def _node(self, adapter: Any) -> Node:
        if adapter not in self._bound:
            self._bound[adapter] = node_of(adapter_of(adapter))
        return self._bound[adapter]

    def _met(self, node: Node) -> Node:
        if node in self._path:
            round_ = [*self._path[self._path.index(node) :], node]
            self._cycle = f"{' -> '.join(each.label for each in round_)}: a cycle, of " + ", ".join(
                str(each.declaration) for each in round_[:-1]
            )
            raise Cycle(f"it needs itself: {' -> '.join(each.label for each in round_)}")
        return node if node.bindings else self._bind(node)


def _is_generic(adapter: Any, returned: Any) -> bool:
    """Whether it is a class method that makes whatever class it is called on."""
    if not ismethod(adapter) or not isinstance(adapter.__self__, type):
        return False
    return isinstance(returned, TypeVar) or returned is Self


def _choices(annotation: Any) -> Iterator[Any]:
    """The types that an annotation lets a parameter have."""
    if annotation is UNKNOWN or isinstance(annotation, Unresolved):
        return
    for each in get_args(annotation) if get_origin(annotation) in _UNIONS else (annotation,):
        if each is not type(None):
            yield each


def _asked(parameter: Parameter) -> str:
    if parameter.annotation is UNKNOWN:
        return f"{parameter.name!r}"
    return f"{parameter.name!r} ({type_name(parameter.annotation)})"


def _because(reasons: list[str]) -> str:
    return f" ({'; '.join(reasons)})" if reasons else ""


def _listed(names: Iterable[str]) -> str:
    return " and ".join(map(repr, sorted(names)))
