"""The graph's nodes: declarations with their types and parameters, and what these are bound to."""

import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from grelmicro.inject._declarations import Declaration, Kind
from grelmicro.inject._types import UNKNOWN, annotations_of, bare_type, yielded_type

__all__ = [
    "EMPTY",
    "LEFT_TO_CALLER",
    "Binding",
    "Node",
    "Parameter",
    "Step",
    "Use",
    "given_node",
    "node_of",
    "parameters_of",
    "step_of",
]

_VARIABLE = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
_GENERATORS = (Kind.GENERATOR, Kind.ASYNC_GENERATOR)

EMPTY = inspect.Parameter.empty
LEFT_TO_CALLER = "passed by the caller"


class Use:
    """Says in an annotation which provider is meant: `Annotated[Redis, Use("replica")]`.

    Args:
        name: The provider's name.

    Raises:
        TypeError: The name is no string.
    """

    def __init__(self, name: str) -> None:
        if not isinstance(name, str) or not name:
            raise TypeError("Use(name): a provider's name is a non-empty string")
        self.name: str = name
        """The provider's name."""

    def __repr__(self) -> str:
        return f"Use({self.name!r})"


class Parameter(NamedTuple):
    """One parameter of a provider or view."""

    name: str
    annotation: Any
    use: str | None
    default: Any
    is_positional: bool
    """Whether it may be passed by its place."""
    is_keyword: bool
    """Whether it may be passed by its name."""


class Binding(NamedTuple):
    """Where a parameter's value comes from."""

    parameter: Parameter
    node: "Node | None"
    """None: the caller passes it, or its default stands."""
    how: str


Named = tuple[tuple[str, "Node"], ...]
Step = tuple["Node", Kind, Callable[..., Any], "Node | None", tuple["Node", ...], Named]
"""What a plan does to get a node's value: node, kind, function, its only argument, if it has one by
place and no other, all arguments by place, and those by name."""


class Node:
    """One value of the graph, however many names and types it is asked for by."""

    def __init__(
        self, declaration: Declaration, kind: Kind, type_: Any, parameters: list[Parameter]
    ) -> None:
        self.declaration: Declaration = declaration
        self.kind: Kind = kind
        self.type: Any = type_
        self.is_app: bool = declaration.scope == "app"
        self.parameters: list[Parameter] = parameters
        self.bindings: list[Binding] = []
        self.body: Node | None = None
        """Of a lazy provider: the node that awaiting it builds."""
        self.step: Step = step_of(self, declaration.function, [], [])

    @property
    def label(self) -> str:
        """Its name, or what is nearest to one."""
        return self.declaration.label

    @property
    def needs(self) -> list["Node"]:
        """What its function takes; of a lazy one, its body."""
        if self.body is not None:
            return [self.body]
        return [each.node for each in self.bindings if each.node is not None]

    def bind(self, bindings: Iterable[Binding]) -> None:
        """Fix what its parameters are, and thereby the step that builds it."""
        self.bindings = list(bindings)
        places: list[Node] = []
        names: list[tuple[str, Node]] = []
        for parameter, node, _ in self.bindings:
            if node is None:
                continue
            if parameter.is_positional and len(places) == self.parameters.index(parameter):
                places.append(node)
            else:
                names.append((parameter.name, node))
        self.step = step_of(self, self.declaration.function, places, names)

    def __repr__(self) -> str:
        return f"<{self.label}>"


def step_of(
    node: Node,
    function: Callable[..., Any],
    places: Sequence[Node],
    names: Sequence[tuple[str, Node]],
) -> Step:
    """Write a step down."""
    only = places[0] if len(places) == 1 and not names else None
    return (node, node.kind, function, only, tuple(places), tuple(names))


def node_of(declaration: Declaration) -> Node:
    """Read a declaration's signature; a lazy one's goes to its body."""
    if declaration.kind is Kind.VALUE:
        return Node(declaration, Kind.VALUE, type(declaration.value), [])
    parameters, returned = parameters_of(declaration.function)
    if declaration.kind in _GENERATORS:
        returned = yielded_type(returned)
    node = Node(declaration, declaration.kind, returned, parameters)
    if not declaration.lazy:
        return node
    handle = Node(declaration, Kind.LAZY, returned, [])
    handle.body = node
    return handle


def given_node(name: str, type_: Any) -> Node:
    """The node of what a scope is opened with."""
    declaration = Declaration(_never, name, Kind.GIVEN, "request", "given by who opens the scope")
    return Node(declaration, Kind.GIVEN, type_, [])


def _never() -> None:
    raise NotImplementedError("what is given is not made")


def parameters_of(function: Callable[..., Any]) -> tuple[list[Parameter], Any]:
    """The parameters that can be bound one by one, and the type that is returned."""
    annotations = annotations_of(function)
    parameters = [
        _parameter(each, annotations.get(each.name, UNKNOWN))
        for each in _signature(function)
        if each.kind not in _VARIABLE
    ]
    returned = function if isinstance(function, type) else annotations.get("return", UNKNOWN)
    return parameters, bare_type(returned)


def _signature(function: Callable[..., Any]) -> Iterable[inspect.Parameter]:
    try:
        return inspect.signature(function).parameters.values()
    except ValueError:  # some builtins have none: they are called without arguments
        return ()


def _parameter(parameter: inspect.Parameter, annotation: Any) -> Parameter:
    marks = [each for each in getattr(annotation, "__metadata__", ()) if isinstance(each, Use)]
    return Parameter(
        parameter.name,
        bare_type(annotation),
        marks[-1].name if marks else None,
        parameter.default,
        parameter.kind is not inspect.Parameter.KEYWORD_ONLY,
        parameter.kind is not inspect.Parameter.POSITIONAL_ONLY,
    )
