"""Which value each parameter gets: decided once, when the graph is frozen.

1. `Annotated[T, Use("name")]`.
2. What the caller itself passes; no provider displaces it.
3. The provider of the parameter's name, unless the annotations contradict each other.
4. Where there is no default and the annotation is no builtin: the only provider of that type.
5. The default.
6. Else a fault, or what whoever calls the function has to pass.
"""

from abc import ABCMeta
from collections.abc import Callable, Collection, Iterable, Mapping
from inspect import isroutine
from typing import Any

from grelmicro.inject._declarations import Kind, described
from grelmicro.inject._nodes import EMPTY, LEFT_TO_CALLER, Binding, Node, Parameter
from grelmicro.inject._types import (
    UNKNOWN,
    Unresolved,
    awaited_type,
    bases_of,
    contradict,
    is_asked_by_type,
    keys_of,
    serves,
    type_name,
)

__all__ = ["BindingFault", "Index", "NothingProvides"]


class BindingFault(Exception):  # noqa: N818 - it is collected, not raised to users
    """Why a parameter, a name or a type cannot be bound."""


class NothingProvides(BindingFault):
    """There is no provider; whoever calls the function may have the value."""


class Index:
    """All nodes, by name, by type and by the function that was declared."""

    def __init__(self, nodes: Iterable[Node], given: Mapping[str, Node]) -> None:
        self.names: dict[str, Node] = dict(given)
        self._nodes: list[Node] = []
        self._types: dict[Any, list[Node]] = {}
        self._functions: dict[Any, str] = {}
        self._pinned: dict[Any, Node] = {}
        self._found: dict[Any, list[Node]] = {}
        for node in (*given.values(), *nodes):
            self._enter(node)

    def _enter(self, node: Node) -> None:
        name = node.declaration.name
        if name is not None:
            self.names.setdefault(name, node)
        if name is not None and self.names[name] is not node:
            return  # what is given cannot be displaced
        self._nodes.append(node)
        for base in bases_of(node.type):
            self._types.setdefault(base, []).append(node)

    def point(self, function: Callable[..., Any], name: str) -> None:
        """Let a declared function stand for the provider that has its name now."""
        self._functions[function] = name

    def alias(self, new: str | type, node: Node) -> None:
        """Give a node another name, or make it the one that is meant by a type."""
        if isinstance(new, str):
            self.names[new] = node
        else:
            self._pinned[new] = node

    def find(self, key: object) -> Node:
        """The node of a name, a type or a declared function.

        Raises:
            BindingFault: There is none, or there are several.
        """
        if isinstance(key, str):
            return self._named(key)
        if callable(key) and (name := self._functions.get(key)) is not None:
            return self._named(name)
        if isroutine(key):
            raise NothingProvides(f"{described(key)!r} is no provider of this container")
        return self.of_type(key)

    def _named(self, name: str) -> Node:
        if (node := self.names.get(name)) is None:
            raise NothingProvides(f"nothing provides {name!r}; {self._known()}")
        return node

    def _known(self) -> str:
        known = ", ".join(sorted(self.names)) or "none"
        return f"there are: {known}" if len(known) < 300 else f"there are {len(self.names)} names"

    def of_type(self, wanted: Any, *, lazy: bool | None = None) -> Node:
        """The only node that serves as a type.

        Raises:
            BindingFault: There is none, or there are several.
        """
        found = self._of_type(wanted)
        if lazy is not None:
            found = [node for node in found if (node.kind is Kind.LAZY) is lazy]
        if not found:
            raise NothingProvides(f"nothing provides the type {type_name(wanted)}")
        if len(found) > 1:
            names = " and ".join(str(node.declaration) for node in found)
            raise BindingFault(
                f"{type_name(wanted)} is provided by {names}: name the parameter like one of them, "
                'or annotate it with Use("name")'
            )
        return found[0]

    def _of_type(self, wanted: Any) -> list[Node]:
        if wanted in self._pinned:
            return [self._pinned[wanted]]
        if wanted not in self._found:
            candidates: dict[Node, None] = {}
            for base in keys_of(wanted):
                # Anything may be registered with an abstract class, which its bases do not tell.
                some = self._nodes if isinstance(base, ABCMeta) else self._types.get(base, ())
                candidates |= dict.fromkeys(some)
            found = [each for each in candidates if serves(each.type, wanted)]
            given = [each for each in found if each.kind is Kind.GIVEN]
            self._found[wanted] = given or found  # what is given cannot be displaced
        return self._found[wanted]

    def bind(self, parameter: Parameter, passed: Collection[str] = ()) -> Binding:
        """Decide where a parameter comes from; the rules are in the module's docstring.

        Raises:
            BindingFault: Nothing provides it, several could, or its annotation forbids it.
        """
        if parameter.use is not None:
            return self._checked(parameter, self._used(parameter.use), f"by Use({parameter.use!r})")
        if parameter.name in passed:
            return Binding(parameter, None, LEFT_TO_CALLER)
        if (node := self.names.get(parameter.name)) is not None:
            how = "given to the scope" if node.kind is Kind.GIVEN else "by its name"
            return self._checked(parameter, node, how)
        if parameter.default is not EMPTY:
            return Binding(parameter, None, f"its default, {parameter.default!r}")
        return self._by_type(parameter)

    def _used(self, name: str) -> Node:
        try:
            return self._named(name)
        except NothingProvides as fault:  # whoever calls it has nothing to do with it
            raise BindingFault(f"Use({name!r}): {fault}") from None

    def _by_type(self, parameter: Parameter) -> Binding:
        wanted, awaited = parameter.annotation, awaited_type(parameter.annotation)
        if isinstance(wanted, Unresolved):
            raise NothingProvides(
                f"nothing provides {parameter.name!r}, and its annotation {wanted.text!r} cannot "
                f"be looked up ({wanted.reason})"
            )
        asked = wanted if awaited is None else awaited
        if asked is UNKNOWN or not is_asked_by_type(asked):
            raise NothingProvides(f"nothing provides {parameter.name!r}")
        node = self.of_type(asked, lazy=awaited is not None)
        return Binding(parameter, node, f"by its type, {type_name(asked)}")

    def _checked(self, parameter: Parameter, node: Node, how: str) -> Binding:
        wanted = parameter.annotation
        if wanted is UNKNOWN or isinstance(wanted, Unresolved):
            return Binding(parameter, node, how)
        is_lazy = node.kind is Kind.LAZY
        wanted = awaited_type(wanted) if is_lazy else wanted
        if wanted is None or contradict(node.type, wanted):
            offered = f"Awaitable[{type_name(node.type)}]" if is_lazy else type_name(node.type)
            raise BindingFault(
                f"{parameter.name!r} is annotated {type_name(parameter.annotation)}, but the "
                f"{'lazy ' if is_lazy else ''}{node.declaration} provides {offered}"
            )
        return Binding(parameter, node, how)
