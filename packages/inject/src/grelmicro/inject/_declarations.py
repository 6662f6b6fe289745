"""What is declared: one record a provider, value or adapter, checked where it is written down."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from functools import partial
from typing import Any, Literal, get_args

from grelmicro.inject._errors import DeclarationError
from grelmicro.inject._types import annotations_of

__all__ = [
    "Declaration",
    "Kind",
    "ScopeName",
    "declare",
    "adapter_of",
    "declarations_of",
    "described",
    "kind_of",
    "mark",
    "place_of",
    "value_of",
]

ScopeName = Literal["request", "app"]

_MARK = "__grelmicro_provider__"


class Kind(IntEnum):
    """What has to be done to get a value."""

    VALUE = 0
    CALL = 1
    AWAIT = 2
    GENERATOR = 3
    ASYNC_GENERATOR = 4
    LAZY = 5
    GIVEN = 6


@dataclass(frozen=True, slots=True, eq=False)
class Declaration:
    """One provider, value or adapter."""

    function: Callable[..., Any]
    """What makes it; returns the value, for a value."""
    name: str | None
    kind: Kind
    scope: ScopeName
    place: str
    """Where it was declared, for messages."""
    autouse: bool = False
    lazy: bool = False
    is_adapter: bool = False
    value: Any = None

    @property
    def label(self) -> str:
        """How `explain` and paths name it."""
        if self.name is not None:
            return self.name
        if self.kind is Kind.VALUE:
            return type(self.value).__qualname__
        return described(self.function)

    def __str__(self) -> str:
        what = "adapter" if self.is_adapter else "value" if self.kind is Kind.VALUE else "provider"
        return f"{what} {self.label!r} ({self.place})"


def declare(
    function: Callable[..., Any],
    name: str | None,
    scope: ScopeName,
    *,
    autouse: bool,
    lazy: bool,
) -> Declaration:
    """Check a provider's declaration.

    Raises:
        DeclarationError: The scope is unknown, the name is none, it is lazy and app-scoped, or
            it is not callable.
    """
    if not callable(function):
        raise DeclarationError(f"@provider goes over a function, not {type(function).__name__!r}")
    name = described(function).rpartition(".")[2] if name is None else name
    where = f"provider {name!r} ({place_of(function)})"
    if not isinstance(name, str) or not name:
        raise DeclarationError(f"{where}: name= is a non-empty string")
    if scope not in get_args(ScopeName):
        raise DeclarationError(f"{where}: scope={scope!r} is unknown: use 'request' or 'app'")
    if lazy and scope == "app":
        raise DeclarationError(
            f"{where}: a lazy provider is request-scoped: nothing would tell whether another "
            "request has evaluated it. Leave out lazy=True or scope='app'"
        )
    kind = kind_of(function)
    return Declaration(function, name, kind, scope, place_of(function), autouse, lazy)


def value_of(value: object, name: str | None) -> Declaration:
    """Check a value's declaration.

    Raises:
        DeclarationError: It is None without a name, or the name is none.
    """
    if name is None and value is None:
        raise DeclarationError("add(None): give it a name=, by which parameters can ask for it")
    if name is not None and (not isinstance(name, str) or not name):
        raise DeclarationError("add(value, name): a name is a non-empty string")
    return Declaration(lambda: value, name, Kind.VALUE, "app", "a value", value=value)


def adapter_of(function: Callable[..., Any]) -> Declaration:
    """Check an adapter's declaration.

    Raises:
        DeclarationError: It is not callable, or does not say what it returns.
    """
    if not callable(function):
        raise DeclarationError(
            f"register() takes a function or class, not {type(function).__name__!r}"
        )
    where = f"adapter {described(function)!r} ({place_of(function)})"
    if not isinstance(function, type) and "return" not in annotations_of(function):
        raise DeclarationError(f"{where}: annotate what it returns, which is what it provides")
    kind = kind_of(function)
    return Declaration(function, None, kind, "request", place_of(function), is_adapter=True)


def mark(function: Callable[..., Any], declaration: Declaration) -> None:
    """Let discovery find the declaration of a function, if it can bear a mark."""
    if inspect.isfunction(function):
        setattr(function, _MARK, (*getattr(function, _MARK, ()), declaration))


def declarations_of(function: object) -> tuple[Declaration, ...]:
    """What was declared with this very function; a copy by `functools.wraps` does not count."""
    if not inspect.isfunction(function):
        return ()
    found = vars(function).get(_MARK, ())
    return tuple(each for each in found if each.function is function)


def kind_of(function: Callable[..., Any]) -> Kind:
    """What calling it gives."""
    while isinstance(function, partial):
        function = function.func
    if not inspect.isroutine(function) and not isinstance(function, type):
        function = type(function).__call__
    if inspect.isasyncgenfunction(function):
        return Kind.ASYNC_GENERATOR
    if inspect.isgeneratorfunction(function):
        return Kind.GENERATOR
    return Kind.AWAIT if inspect.iscoroutinefunction(function) else Kind.CALL


def described(function: Any) -> str:
    """A function's name without the functions around it."""
    while isinstance(function, partial):
        function = function.func
    name: str = getattr(function, "__qualname__", type(function).__qualname__)
    return name.rpartition("<locals>.")[2]


def place_of(function: Any) -> str:
    """Where a function or class was written: file and line, else its module."""
    while isinstance(function, partial):
        function = function.func
    inner = inspect.unwrap(function) if callable(function) else function
    code = getattr(inner, "__code__", None)
    if code is not None:
        return f"{code.co_filename}:{code.co_firstlineno}"
    return f"module {getattr(inner, '__module__', '?')}"
