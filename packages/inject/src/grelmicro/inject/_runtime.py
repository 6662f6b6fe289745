"""A frozen graph at work: the app scope, stand-ins, and plans joined with app-scoped values."""

from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from typing import Any

from grelmicro.errors import OutOfContextError
from grelmicro.inject._binding import BindingFault
from grelmicro.inject._consumers import Consumer
from grelmicro.inject._declarations import Kind
from grelmicro.inject._errors import ProviderNotFoundError
from grelmicro.inject._graph import Bound, Graph
from grelmicro.inject._nodes import Node
from grelmicro.inject._plans import Plan, plan_for
from grelmicro.inject._scope import Linked, Scope

__all__ = ["Runtime"]


class Runtime:
    """What scopes and consumers ask their container for.

    Args:
        grace: Seconds that a teardown may take once its task was cancelled.
    """

    def __init__(self, grace: float) -> None:
        self.grace: float = grace
        self.told: dict[str | type, Any] = {}
        """The app-scoped values, by name and by type."""
        self._graph: Graph | None = None
        self._app: Scope | None = None
        self._plans: dict[Consumer, Plan] = {}
        self._overlays: list[Mapping[str, Any]] = []
        self._epoch = 0
        self._links: dict[Node | str, Linked] = {}
        self._borrowed: set[Node] = set()

    @property
    def is_open(self) -> bool:
        """Whether there is an app scope, or one is being opened."""
        return self._app is not None

    @property
    def graph(self) -> Graph:
        """The graph of the open container."""
        if self._graph is None:
            raise OutOfContextError(
                "the container is not open: enter it, as in `async with container`"
            )
        return self._graph

    def compile(self, graph: Graph) -> None:
        """Take a graph over, and compile a plan for each of its views."""
        self._graph = graph
        self._plans = {each: plan_for(bound.roots, {}) for each, bound in graph.bound.items()}

    def scope(self, given: Mapping[str, Any]) -> Scope:
        """Make a request scope."""
        self._open_app()
        scope = Scope(self, {})
        scope.give(given)
        return scope

    def find(self, key: object) -> Node:
        """The node of a name, a type or a declared function."""
        try:
            return self.graph.index.find(key)
        except BindingFault as fault:
            raise ProviderNotFoundError(str(fault)) from None

    @property
    def given(self) -> Mapping[str, Node]:
        """The nodes that are filled when a scope is opened with their names."""
        return self.graph.given

    async def open(self) -> None:
        """Build all app-scoped nodes."""
        app = self._app = Scope(self, {})
        try:
            await self._build_app([node for node in self.graph.nodes if node.is_app])
        except BaseException as error:
            await self._close(app, error)
            raise
        self._tell()

    async def close(self, error: BaseException | None) -> None:
        """Close them in reverse."""
        await self._close(self._open_app(), error)

    async def _close(self, app: Scope, error: BaseException | None) -> None:
        self._app = None
        self._forget_links()
        try:
            await app.close(error)
        finally:
            if self._app is None:
                self._graph = None

    @contextmanager
    def overlaid(self, values: Mapping[str, Any]) -> Generator[None, None, None]:
        """Let values stand in for the block."""
        overlay = dict(values)
        self._overlays.append(overlay)
        self._forget_links()
        try:
            yield
        finally:
            self._overlays = [each for each in self._overlays if each is not overlay]
            self._forget_links()

    async def link_consumer(self, consumer: Consumer) -> Linked:
        """The plan of a view, which remembers it."""
        bound = self.graph.bound[consumer]
        epoch, linked = await self._link(lambda: self._plan_of(bound))
        is_shared = any(step[1] is Kind.LAZY for step in linked.steps)
        linked = linked._replace(arguments=_arguments(bound), is_shared=is_shared)
        if epoch == self._epoch:
            consumer.linked = linked
        return linked

    async def link_node(self, node: Node) -> Linked:
        """The plan of a single node."""
        return self._links.get(node) or await self._link_kept(node, [node])

    async def link_autouse(self) -> Linked:
        """The plan of what runs in every scope."""
        return self._links.get("autouse") or await self._link_kept("autouse", self.graph.autouse)

    async def call_in(
        self, scope: Scope, function: Callable[..., Any], args: Any, kwargs: Any
    ) -> Any:
        """Call any function in a scope."""
        consumer = Consumer(self, function, None, autouse=False)
        bound = self.graph.bind(consumer)
        _, linked = await self._link(lambda: plan_for(bound.roots, self._stand_ins()))
        consumer.linked = linked._replace(arguments=_arguments(bound))
        return await consumer.run_in(scope, args, kwargs)

    async def _link_kept(self, key: Node | str, roots: list[Node]) -> Linked:
        epoch, linked = await self._link(lambda: plan_for(roots, self._stand_ins()))
        if epoch == self._epoch:
            self._links[key] = linked
        return linked

    async def _link(self, make: Callable[[], Plan]) -> tuple[int, Linked]:
        """Join a plan with what it reads; the epoch tells whether an override came in between."""
        epoch, plan = self._epoch, make()
        app = await self._build_app(plan.app)
        constants = plan.fixed | {node: app.values[node] for node in plan.app}
        return epoch, Linked(plan.steps, constants, plan.given)

    async def _build_app(self, nodes: Iterable[Node]) -> Scope:
        """Build app-scoped nodes that are not there yet: all at first, later those overridden."""
        app, stand_ins = self._open_app(), self._stand_ins()
        todo = plan_for(nodes, stand_ins, app=True)
        self._borrowed |= {node for node in todo.fixed if node in stand_ins} - app.values.keys()
        await app.add(Linked(todo.steps, todo.fixed, todo.given))
        return app

    def _plan_of(self, bound: Bound) -> Plan:
        if not self._overlays and bound.consumer in self._plans:
            return self._plans[bound.consumer]
        return plan_for(bound.roots, self._stand_ins())

    def _stand_ins(self) -> dict[Node, Any]:
        names = self.graph.index.names if self._overlays else {}
        pairs = ((names[name], v) for each in self._overlays for name, v in each.items())
        return {node.body or node: value for node, value in pairs}

    def _forget_links(self) -> None:
        """Have everybody link anew, with the stand-ins of now."""
        self._epoch += 1
        self._links.clear()
        for node in self._borrowed:
            if self._app is not None:
                self._app.values.pop(node, None)
        self._borrowed.clear()
        for consumer in self._graph.bound if self._graph is not None else ():
            consumer.linked = None
        self._tell()

    def _tell(self) -> None:
        self.told.clear()
        if self._app is None:
            return
        there = {**self._app.values, **self._stand_ins()}
        for name, node in self.graph.index.names.items():
            if node.is_app and node in there:
                self.told[name] = there[node]
        for node in self.graph.nodes:
            if (
                node in there
                and node.is_app
                and isinstance(node.type, type)
                and self._is_only(node)
            ):
                self.told[node.type] = there[node]

    def _is_only(self, node: Node) -> bool:
        try:
            return self.graph.index.of_type(node.type) is node
        except BindingFault:
            return False

    def _open_app(self) -> Scope:
        if self._app is None:
            raise OutOfContextError(
                "the container is not open: enter it, as in `async with container`"
            )
        return self._app


def _arguments(bound: Bound) -> tuple[tuple[str, Node], ...]:
    return tuple((each.parameter.name, each.node) for each in bound.bindings if each.node)
