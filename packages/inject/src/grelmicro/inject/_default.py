"""The default container, and functions that stand for its methods."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from types import ModuleType
from typing import Any, TypeVar, overload

from grelmicro.inject._container import Container
from grelmicro.inject._declarations import ScopeName

__all__ = [
    "add",
    "alias",
    "container",
    "discover_providers",
    "override",
    "provider",
    "register",
]

F = TypeVar("F", bound=Callable[..., Any])

container: Container = Container()
"""The default container, which the functions of `grelmicro.inject` declare to."""


@overload
def provider(
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
    *,
    scope: ScopeName = "request",
    name: str | None = None,
    autouse: bool = False,
    lazy: bool = False,
) -> Callable[[F], F]: ...


def provider(function: Any = None, /, **options: Any) -> Any:
    """Declare a provider to the default container: `Container.provider`."""
    decorator = container.provider(**options)
    return decorator if function is None else decorator(function)


def discover_providers(*modules: str | ModuleType) -> None:
    """Discover modules' providers for the default container: `Container.discover_providers`."""
    container.discover_providers(*modules)


def add(value: Any, name: str | None = None) -> None:
    """Provide a value in the default container: `Container.add`."""
    container.add(value, name)


def register(adapter: F) -> F:
    """Provide a type in the default container: `Container.register`."""
    return container.register(adapter)


def alias(new: str | type, of: str | type | Callable[..., Any]) -> None:
    """Give a provider of the default container another name: `Container.alias`."""
    container.alias(new, of)


def override(**values: Any) -> AbstractContextManager[Container]:
    """Let values stand in for providers of the default container: `Container.override`."""
    return container.override(**values)
