"""What names a plugin: a module, a function, or text that leads to one of them."""

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any, NamedTuple

from grelmicro.inject.engine import described

__all__ = ["Plugin", "Reference", "absolute", "calling_package", "resolve"]

Reference = str | ModuleType | Callable[..., Any]


class Plugin(NamedTuple):
    """A plugin that was found."""

    name: str
    prepare: Callable[..., Any]
    yields: bool
    """Whether it is an asynchronous generator."""


def calling_package(depth: int) -> str | None:
    """The package of the module that called the caller's caller, and so on."""
    space = sys._getframe(depth + 1).f_globals
    package: str | None = space.get("__package__")
    return package


def absolute(reference: Reference, package: str | None) -> Reference:
    """A reference that means the same everywhere.

    Raises:
        ValueError: It is relative, and its module is in no package.
    """
    if not isinstance(reference, str) or not reference.startswith("."):
        return reference
    if not package:
        raise ValueError(
            f"the plugin {reference!r} is relative, and the module that asks for it is in no "
            "package: name it in full"
        )
    name, colon, attribute = reference.partition(":")
    return importlib.util.resolve_name(name, package) + colon + attribute


def resolve(reference: Reference) -> Plugin:
    """Find a plugin, importing what it is in.

    Args:
        reference: "pkg.mod", "pkg.mod:attribute", a module, or the function itself. What a module
            offers is its `prepare`.

    Raises:
        ImportError: There is no such module, or its own imports fail.
        ValueError: What was found is no coroutine function and no asynchronous generator function.
    """
    name, found = _found(reference)
    if isinstance(found, ModuleType):
        found = getattr(found, "prepare", None)
        if found is None:
            raise ValueError(f"the plugin {name!r} has no function `prepare`")
    plain = _plain(found)
    if not inspect.iscoroutinefunction(plain) and not inspect.isasyncgenfunction(plain):
        raise ValueError(
            f"the plugin {name!r}: {described(found)!r} has to be an `async def`, "
            "which may yield or return what is to be run"
        )
    return Plugin(name, found, inspect.isasyncgenfunction(plain))


def _found(reference: Reference) -> tuple[str, Any]:
    if isinstance(reference, ModuleType):
        return reference.__name__, reference
    if not isinstance(reference, str):
        module = getattr(reference, "__module__", None)
        return f"{module or '?'}:{described(reference)}", reference
    name, _, attribute = reference.partition(":")
    if not attribute:
        return reference, _imported(name)
    found: Any = importlib.import_module(name)
    for each in attribute.split("."):
        found = getattr(found, each, None)
    if found is None:
        raise ValueError(f"the plugin {reference!r}: {name} has no {attribute!r}")
    return reference, found


def _imported(name: str) -> Any:
    """A module; or what a module has, where the last dot leads to that."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        parent, _, attribute = name.rpartition(".")
        if error.name != name or not parent:
            raise
        found = getattr(importlib.import_module(parent), attribute, None)
        if found is None:
            raise
        return found


def _plain(function: Any) -> Any:
    while isinstance(function, partial):
        function = function.func
    if inspect.isroutine(function):
        return function
    return getattr(type(function), "__call__", None)  # noqa: B004  # it is what is looked at
