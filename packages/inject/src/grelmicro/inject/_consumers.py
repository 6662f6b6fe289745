"""Consumers: the views and other functions that values are injected into."""

import inspect
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from types import CoroutineType, MappingProxyType
from typing import Any, Protocol, TypeVar

from grelmicro.inject._declarations import described, place_of
from grelmicro.inject._scope import Host, Linked, Scope

__all__ = ["Consumer", "ConsumerHost", "uses_of", "useprovider"]

F = TypeVar("F", bound=Callable[..., Any])

_USES = "__grelmicro_uses__"


def useprovider(*providers: str | Callable[..., Any]) -> Callable[[F], F]:
    """Activate providers for a view that does not need their values; they run before its own.

    It only marks the view, so names of providers that are declared later will do: they are looked
    up in the container that serves the view. Stacked, it adds up, from top to bottom.

    Args:
        providers: Names, or the declared functions themselves.

    Raises:
        TypeError: Something is neither.
    """
    for each in providers:
        if not isinstance(each, str) and not callable(each):
            raise TypeError(f"useprovider() takes names and providers, not {type(each).__name__!r}")

    def marked(view: F) -> F:
        setattr(view, _USES, (*providers, *uses_of(view)))
        return view

    return marked


def uses_of(view: object) -> tuple[str | Callable[..., Any], ...]:
    """What `useprovider` has marked a view with; for edges of frameworks."""
    found: tuple[str | Callable[..., Any], ...] = getattr(view, _USES, ())
    return found


class ConsumerHost(Host, Protocol):
    """What a consumer needs of its container."""

    async def link_consumer(self, consumer: "Consumer") -> Linked: ...


class Consumer:
    """A function together with what is injected into it; made by `Container.consumer`.

    A framework's edge calls `run` for every request; `Container.inject` makes a function of it.
    """

    def __init__(
        self,
        host: ConsumerHost,
        function: Callable[..., Any],
        given: Collection[str] | None,
        *,
        autouse: bool,
        used: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.function: Callable[..., Any] = function
        """The function itself."""
        self.marked: Callable[..., Any] = function
        """What `useprovider` marks: the function, or what stands in its place."""
        self.given: frozenset[str] | None = None if given is None else frozenset(given)
        """The names that its caller passes; None where that is not known."""
        self.autouse: bool = autouse
        """Whether autouse providers run for it."""
        self.used: Mapping[str, str] = used
        """Names of providers, by the parameters that they are meant for."""
        self.linked: Linked | None = None
        """Its plan, as long as it stands."""
        self._host = host
        self._positional = _positional(function)
        self._is_async = inspect.iscoroutinefunction(function)

    @property
    def uses(self) -> tuple[str | Callable[..., Any], ...]:
        """What `useprovider` adds."""
        return uses_of(self.marked)

    def __str__(self) -> str:
        return f"view {described(self.function)!r} ({place_of(self.function)})"

    async def run(
        self,
        given: Mapping[str, Any] | None,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        close: Callable[[Scope, BaseException], Awaitable[None]] = Scope.close,
    ) -> Any:
        """Call the function in a scope of its own, which is closed before this returns.

        Args:
            given: What the scope is opened with; None: the arguments, by their names.
            args: Passed on.
            kwargs: Passed on, with what is injected; what stands in it already is not displaced.
            close: How the scope is closed when something failed.

        Raises:
            OutOfContextError: The container is not open.
        """
        linked = self.linked or await self._host.link_consumer(self)
        scope = Scope(self._host, linked.constants.copy())
        try:
            if linked.given or given:
                scope.give(self._named(args, kwargs) if given is None else given)
                scope.check_given(linked)
            if linked.steps:
                await (scope.build if linked.is_shared else scope.build_alone)(linked.steps)
            by_place = self._positional[: len(args)]
            for name, node in linked.arguments:
                if name not in kwargs and name not in by_place:
                    kwargs[name] = scope.values[node]
            result = self.function(*args, **kwargs)
            if self._is_async or type(result) is CoroutineType:
                result = await result
        except BaseException as error:
            await close(scope, error)
            raise
        scope.is_open = False
        if scope.exits:
            await scope.close(None)
        return result

    async def run_in(self, scope: Scope, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call the function in a scope that is open, and stays so."""
        linked = self.linked or await self._host.link_consumer(self)
        await scope.add(linked)
        by_place = self._positional[: len(args)]
        there = {
            name: scope.values[node] for name, node in linked.arguments if name not in by_place
        }
        result = self.function(*args, **{**there, **kwargs})
        return await result if type(result) is CoroutineType else result

    def _named(self, args: Iterable[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        return {**dict(zip(self._positional, args, strict=False)), **kwargs}


def _positional(function: Callable[..., Any]) -> list[str]:
    """The names of what may be passed by its place."""
    named = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(function).parameters.values()
    return [each.name for each in parameters if each.kind in named]
