"""The declaring half of a container."""

from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any, TypeVar, overload

from grelmicro.inject import _discovery
from grelmicro.inject._declarations import (
    Declaration,
    ScopeName,
    adapter_of,
    declare,
    mark,
    value_of,
)
from grelmicro.inject._errors import DeclarationError, ProviderNotFoundError
from grelmicro.inject._graph import Graph
from grelmicro.inject._registry import Registry

__all__ = ["Declaring"]

F = TypeVar("F", bound=Callable[..., Any])


class Declaring:
    """What can be declared; nothing of it once the graph is frozen."""

    def __init__(self) -> None:
        self._registry = Registry()
        self._graph: Graph | None = None

    @overload
    def provider(
        self,
        function: F,
        /,
        *,
        scope: ScopeName = "request",
        name: str | None = None,
        autouse: bool = False,
        lazy: bool = False,
    ) -> F: ...

    @overload
    def provider(
        self,
        /,
        *,
        scope: ScopeName = "request",
        name: str | None = None,
        autouse: bool = False,
        lazy: bool = False,
    ) -> Callable[[F], F]: ...

    def provider(
        self,
        function: F | None = None,
        /,
        *,
        scope: ScopeName = "request",
        name: str | None = None,
        autouse: bool = False,
        lazy: bool = False,
    ) -> F | Callable[[F], F]:
        """Declare a provider: a function, sync or async, or a generator that yields once.

        Its parameters are injected. It stays callable as itself. A name that is there already is
        redeclared.

        Args:
            function: The function, where the decorator is used without arguments.
            scope: "request": for each request that needs it; "app": once, when the container opens.
            name: What parameters call it; the function's name by default.
            autouse: Whether it runs for every request, asked for or not.
            lazy: Whether what is injected is an awaitable, evaluated when it is first awaited.

        Raises:
            DeclarationError: The scope is unknown, a lazy one is app-scoped, or it is too late.
        """

        def declared(function: F) -> F:
            declaration = declare(function, name, scope, autouse=autouse, lazy=lazy)
            self._enter(declaration)
            mark(function, declaration)
            return function

        return declared if function is None else declared(function)

    def __contains__(self, name: str) -> bool:
        """Whether something is declared under a name."""
        return name in self._registry.named or name in self._registry.aliases

    def add(self, value: Any, name: str | None = None) -> None:
        """Provide a value, by its type and, if it has one, by its name.

        Raises:
            DeclarationError: It is None without a name, or the graph is frozen.
        """
        self._enter(value_of(value, name))

    def remove(self, name: str) -> None:
        """Take back what is declared under a name.

        Raises:
            ProviderNotFoundError: Nothing is.
            DeclarationError: The graph is frozen.
        """
        self._check_thawed(f"the removal of {name!r}")
        if name not in self._registry.named:
            raise ProviderNotFoundError(f"remove(): nothing is declared as {name!r}")
        self._registry.leave(name)

    def register(self, adapter: F) -> F:
        """Provide a type: the one that a function, a class method or a class returns.

        What it needs and nothing provides is passed by who asks: `scope.get(Foo, baz=...)`.

        Returns:
            The adapter, so that it can be used as a decorator.

        Raises:
            DeclarationError: It does not say what it returns, or the graph is frozen.
        """
        self._enter(adapter_of(adapter))
        return adapter

    def alias(self, new: str | type, of: str | type | Callable[..., Any]) -> None:
        """Give a provider another name, or say which one is meant by a type.

        Args:
            new: The name, or the type.
            of: The name, the type or the function of a provider, which may be declared later.

        Raises:
            DeclarationError: The graph is frozen.
        """
        self._check_thawed(f"alias {new!r}")
        self._registry.aliases[new] = of

    def given(self, **types: Any) -> None:
        """Declare what scopes are opened with, such as the request; no provider displaces it.

        Args:
            types: The type of each name; `object` for anything.

        Raises:
            DeclarationError: The graph is frozen.
        """
        self._check_thawed(f"given {' and '.join(types)}")
        self._registry.give(types)

    def discover_providers(self, *modules: str | ModuleType) -> None:
        """Import modules, and declare the providers that are declared in them or imported by them.

        Raises:
            ImportError: There is none, or its own imports fail; a note tells who listed it.
            DeclarationError: The graph is frozen.
        """
        self._enter_all(_discovery.found_in(modules, _discovery.caller()))

    def discover_defaults(self) -> None:
        """Discover what PROVIDER_MODULES lists, and `providerconf` in the working directory.

        The variable's names are separated by commas or spaces. Neither has to be there.

        Raises:
            ImportError: A module is missing, or its own imports fail; a note tells who listed it.
        """
        self._enter_all(_discovery.found_by_default())

    def _enter_all(self, declarations: Iterable[Declaration]) -> None:
        for declaration in declarations:
            if declaration not in self._registry:
                self._enter(declaration)

    def _enter(self, declaration: Declaration) -> None:
        self._check_thawed(str(declaration))
        self._registry.enter(declaration)

    def _check_thawed(self, what: str) -> None:
        if self._graph is not None:
            raise DeclarationError(
                f"{what} comes too late: the graph is frozen. Declare it before the app starts, in "
                "a module that is imported or discovered by then"
            )
