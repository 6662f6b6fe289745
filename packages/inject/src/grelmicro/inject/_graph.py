"""The graph: every parameter of every provider and view bound, and every fault listed."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from grelmicro.inject._binding import BindingFault, Index, NothingProvides
from grelmicro.inject._consumers import Consumer
from grelmicro.inject._declarations import Kind, described
from grelmicro.inject._errors import GraphError, ProviderNotFoundError
from grelmicro.inject._explain import drawing, explanation
from grelmicro.inject._faults import Fault, Paths, cycles, scope_faults
from grelmicro.inject._nodes import (
    LEFT_TO_CALLER,
    Binding,
    Node,
    Parameter,
    given_node,
    node_of,
    parameters_of,
)
from grelmicro.inject._plans import in_order
from grelmicro.inject._registry import Registry
from grelmicro.inject._types import UNKNOWN, Unresolved

__all__ = ["Bound", "Graph"]


class Bound(NamedTuple):
    """A view's parameters and everything that it activates."""

    consumer: Consumer
    bindings: list[Binding]
    used: list[Node]
    """What it activates beside its parameters, in order."""
    passed: frozenset[str]
    """The names that its caller passes."""
    faults: list[str]

    @property
    def roots(self) -> list[Node]:
        """What is built for it, in order."""
        return [*self.used, *(each.node for each in self.bindings if each.node is not None)]


class Graph:
    """Providers and views, bound to each other; made by `Container.freeze`.

    Raises:
        GraphError: Everything that does not fit together.
    """

    def __init__(self, registry: Registry, consumers: Iterable[Consumer]) -> None:
        self.given: dict[str, Node] = {
            name: given_node(name, kind) for name, kind in registry.given.items()
        }
        """What scopes are opened with, by name: as declared, or what nothing else provides."""
        self.nodes: list[Node] = [node_of(each) for each in registry]
        """One a declaration."""
        self.builders: list[Node] = [node.body or node for node in self.nodes]
        """What has parameters: the nodes, or the bodies of lazy ones."""
        self.index: Index = Index(self.nodes, self.given)
        self.autouse: list[Node] = []
        """What runs for every scope."""
        self.bound: dict[Consumer, Bound] = {}
        """The views."""
        self._missing: list[tuple[Node, str, str]] = []
        faults: list[str | Fault] = [*self._enter_aliases(registry), *self._bind_providers()]
        self.autouse = [node for node in self.nodes if node.declaration.autouse]
        self._bind_consumers(consumers, faults)

    def bind(self, consumer: Consumer) -> Bound:
        """Bind a view that came after freezing; it is not kept.

        Raises:
            GraphError: What it asks for cannot be provided.
        """
        bound = self._bind_consumer(consumer)
        if faults := [*bound.faults, *self._lacking({consumer: bound})]:
            raise GraphError(faults)
        return bound

    def add(self, consumer: Consumer) -> None:
        """Bind a view that came after freezing.

        Raises:
            GraphError: What it asks for cannot be provided.
        """
        self.bound[consumer] = self.bind(consumer)

    def explain(self, view: Callable[..., Any] | str) -> str:
        """Where a view's parameters come from, what runs for it, and what an error does to that.

        Args:
            view: A view's function, or the name of a provider.

        Raises:
            ProviderNotFoundError: The graph has neither.
        """
        wanted = getattr(view, "__wrapped__", view)
        for consumer, bound in self.bound.items():
            if wanted in (consumer.function, consumer):
                return explanation(str(consumer), bound.bindings, bound.used)
        try:
            node = self.index.find(view)
        except BindingFault as fault:
            raise ProviderNotFoundError(str(fault)) from None
        return explanation(str(node.declaration), [], [node])

    def given_to(self, consumer: Consumer) -> set[str]:
        """The names that a view's scope has to be opened with, as something in it asks for them."""
        roots = [*self.autouse, *self.bound[consumer].roots]
        nodes = in_order(roots, lambda node: node.is_app)
        return {node.label for node in nodes if node.kind is Kind.GIVEN}

    def mermaid(self) -> str:
        """Draw the graph in Mermaid's language: an arrow points to what is needed."""
        views = [(described(each.function), bound.roots) for each, bound in self.bound.items()]
        return drawing(views, self.nodes)

    def _enter_aliases(self, registry: Registry) -> Iterator[str]:
        for function, name in registry.functions.items():
            self.index.point(function, name)
        ahead = dict(registry.aliases)
        while ahead:
            entered = []
            for new, target in ahead.items():
                if target in ahead:
                    continue
                entered.append(new)
                try:
                    self.index.alias(new, self.index.find(target))
                except BindingFault as fault:
                    yield f"alias {new!r} of {target!r}: {fault}"
            if not entered:
                yield f"{' and '.join(map(repr, ahead))}: aliases that lead to each other"
                return
            for new in entered:
                del ahead[new]

    def _bind_providers(self) -> Iterator[Fault]:
        for node in self.builders:
            if node.declaration.is_adapter and isinstance(node.type, Unresolved):
                text = f"what it returns, {node.type.text!r}, cannot be looked up"
                yield Fault(node, f"{text} ({node.type.reason})")
            bindings = []
            for parameter in node.parameters:
                try:
                    bindings.append(self.index.bind(parameter))
                except NothingProvides as fault:
                    bindings.append(Binding(parameter, self._opened(parameter), LEFT_TO_CALLER))
                    self._missing.append((node, parameter.name, str(fault)))
                except BindingFault as fault:
                    yield Fault(node, str(fault))
            node.bind(bindings)

    def _opened(self, parameter: Parameter) -> Node:
        name = parameter.name
        return self.given.setdefault(name, given_node(name, UNKNOWN))

    def _bind_consumers(self, consumers: Iterable[Consumer], faults: list[str | Fault]) -> None:
        self.bound = {each: self._bind_consumer(each) for each in consumers}
        faults += [text for bound in self.bound.values() for text in bound.faults]
        faults += [*cycles(self.nodes), *scope_faults(self.builders), *self._missing_everywhere()]
        faults += self._lacking(self.bound)
        if faults:
            raise GraphError(dict.fromkeys(self._told(faults)))

    def _bind_consumer(self, consumer: Consumer) -> Bound:
        bindings, faults, passed = [], [], set(consumer.given or ())
        for parameter in parameters_of(consumer.function)[0]:
            try:
                bindings.append(self._bind_argument(parameter, consumer, passed))
            except BindingFault as fault:
                faults.append(f"{consumer}: {fault}")
        used = [*self.autouse] if consumer.autouse else []
        for key in consumer.uses:
            try:
                used.append(self.index.find(key))
            except BindingFault as fault:
                faults.append(f"{consumer}: useprovider: {fault}")
        return Bound(consumer, bindings, used, frozenset(passed), faults)

    def _bind_argument(self, parameter: Parameter, consumer: Consumer, passed: set[str]) -> Binding:
        if not parameter.is_keyword:
            passed.add(parameter.name)
        if parameter.name in consumer.used:
            parameter = parameter._replace(use=consumer.used[parameter.name])
        try:
            return self.index.bind(parameter, passed)
        except NothingProvides:
            if consumer.given is not None:
                raise
            passed.add(parameter.name)
            return Binding(parameter, None, LEFT_TO_CALLER)

    def _missing_everywhere(self) -> Iterator[Fault]:
        """What nobody could ever pass; an adapter's caller may."""
        passed = {name for bound in self.bound.values() for name in bound.passed}
        for node, name, text in self._missing:
            if node.is_app or (name not in passed and not node.declaration.is_adapter):
                yield Fault(node, f"{text}{_WAY_OUT.format(name=name)}")

    def _lacking(self, views: dict[Consumer, Bound]) -> Iterator[str]:
        """What some views need and do not pass, while others might."""
        somewhere = {name for bound in self.bound.values() for name in bound.passed}
        open_to = [(n, name, text) for n, name, text in self._missing if not n.is_app]
        for bound in views.values() if open_to else ():
            reached = {*in_order(bound.roots, lambda node: node.is_app)}
            for node, name, text in open_to:
                is_told = name not in somewhere and not node.declaration.is_adapter
                if node in reached and name not in bound.passed and not is_told:
                    yield f"{Paths({str(bound.consumer): bound.roots}).to(node)}: {text}"

    def _told(self, faults: Iterable[str | Fault]) -> Iterator[str]:
        roots = {str(each.consumer): each.roots for each in self.bound.values()}
        paths = Paths({**roots, "every scope": self.autouse})
        for fault in faults:
            yield f"{paths.to(fault.node)}: {fault.text}" if isinstance(fault, Fault) else fault


_WAY_OUT = "; if scopes are opened with it, say so: container.given({name}=...)"
