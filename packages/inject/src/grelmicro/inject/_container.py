"""The container: what is declared, the graph that it makes when frozen, and the app scope."""

from collections.abc import Callable, Collection, Coroutine, Generator, Iterable, Mapping
from contextlib import contextmanager
from functools import wraps
from types import MappingProxyType, TracebackType
from typing import Any, Self, TypeVar

from grelmicro.errors import OutOfContextError
from grelmicro.inject._consumers import Consumer
from grelmicro.inject._declaring import Declaring
from grelmicro.inject._errors import ProviderNotFoundError
from grelmicro.inject._graph import Graph
from grelmicro.inject._runtime import Runtime
from grelmicro.inject._scope import Scope

__all__ = ["Container"]

T = TypeVar("T")


class Container(Declaring):
    """Providers, and the views that their values are injected into.

    Declare providers, then enter it: the graph is frozen, which reports everything that does not
    fit together, and app-scoped providers are built. Leaving it closes them in reverse; after that,
    it can be declared to and entered again.

    Args:
        grace: Seconds that a teardown may take once its task was cancelled; then what it waits
            for is cancelled as well. Zero or more.

    Raises:
        ValueError: `grace` is negative.
    """

    def __init__(self, *, grace: float = 10.0) -> None:
        if not grace >= 0:
            raise ValueError(f"grace: {grace} is no number of seconds from 0")
        super().__init__()
        self._consumers: list[Consumer] = []
        self._runtime = Runtime(grace)
        self.values: Mapping[str | type, Any] = MappingProxyType(self._runtime.told)
        """The app-scoped values by name and by type, while the container is open."""

    def consumer(
        self,
        function: Callable[..., Any],
        /,
        *,
        given: Collection[str] | None = None,
        autouse: bool = True,
        used: Mapping[str, str] = MappingProxyType({}),
    ) -> Consumer:
        """Take in a view, which the graph is checked for; for the edge of a framework.

        Args:
            function: The view, sync or async.
            given: The names that the framework passes: whatever else is missing is a fault. None:
                not known; whoever calls the view completes it.
            autouse: Whether autouse providers run for it.
            used: Providers by parameter, as if it were annotated with `Use`.

        Raises:
            GraphError: The graph is frozen already, and something for the view is missing.
        """
        consumer = Consumer(self._runtime, function, given, autouse=autouse, used=used)
        if self._graph is not None:
            self._graph.add(consumer)
        self._consumers.append(consumer)
        return consumer

    @property
    def consumers(self) -> tuple[Consumer, ...]:
        """The views that were taken in."""
        return tuple(self._consumers)

    def forget(self, consumers: Iterable[Consumer]) -> None:
        """Take views out again, which are not called any more.

        Raises:
            DeclarationError: The graph is frozen.
        """
        self._check_thawed("forgetting views")
        gone = {*consumers}
        self._consumers = [each for each in self._consumers if each not in gone]

    def inject(
        self, function: Callable[..., Coroutine[Any, Any, T]], /
    ) -> Callable[..., Coroutine[Any, Any, T]]:
        """Make a function that is called with what it asks for, each call in a scope of its own.

        What it is called with is passed on; no provider displaces it.

        Raises:
            GraphError: The graph is frozen already, and something does not fit together.
        """
        consumer = self.consumer(function)
        run = consumer.run

        @wraps(function)
        async def injected(*args: Any, **kwargs: Any) -> T:
            result: T = await run(None, args, kwargs)
            return result

        consumer.marked = injected
        return injected

    def freeze(self) -> Graph:
        """Bind every parameter of every provider and view, and compile the plans.

        Returns:
            The graph, which can `explain` a view and draw itself.

        Raises:
            GraphError: Everything that does not fit together, each fault with its path.
        """
        if self._graph is None:
            self._graph = Graph(self._registry, self._consumers)
            self._runtime.compile(self._graph)
        return self._graph

    def thaw(self) -> None:
        """Let it be declared to again, where it was frozen and never opened.

        Raises:
            OutOfContextError: It is open.
        """
        if self.is_open:
            raise OutOfContextError("thaw(): the container is open; leave it first")
        self._graph = None

    @property
    def is_open(self) -> bool:
        """Whether it was entered and not left."""
        return self._runtime.is_open

    def scope(self, **given: Any) -> Scope:
        """Open a request scope, with `async with`; autouse providers run in it.

        Args:
            given: What providers can ask for by these names; `given` declares them.

        Raises:
            OutOfContextError: The container is not open.
        """
        return self._runtime.scope(given)

    @contextmanager
    def override(self, **values: Any) -> Generator[Self, None, None]:
        """Let values stand in for providers, for everybody, until the block is left.

        A stand-in's provider is not built, nor what only it needs. App-scoped providers that were
        built already keep what they were built with.

        Args:
            values: By name. For a lazy provider: what awaiting it gives.

        Raises:
            ProviderNotFoundError: No provider has such a name.
        """
        self._check_names(values)
        with self._runtime.overlaid(values):
            yield self

    async def __aenter__(self) -> Self:
        """Freeze the graph, and build all app-scoped providers, in the order of their needs.

        Raises:
            OutOfContextError: It is open already.
            GraphError: Something does not fit together.
        """
        if self.is_open:
            raise OutOfContextError(
                "this container is open already: make another one, or leave it first"
            )
        self.freeze()
        try:
            await self._runtime.open()
        except BaseException:
            self._graph = None
            raise
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close app-scoped providers in reverse, all of them even after errors."""
        self._graph = None
        await self._runtime.close(exc)

    def _check_names(self, names: Iterable[str]) -> None:
        registry = self._registry
        known: set[object] = {*registry.named, *registry.aliases, *registry.given}
        if unknown := [name for name in names if name not in known]:
            raise ProviderNotFoundError(
                f"override(): nothing provides {' or '.join(map(repr, unknown))}; there are: "
                f"{', '.join(sorted(map(str, known))) or 'none'}"
            )
