"""What was declared so far, by name; the last declaration of a name is the one that counts."""

from collections.abc import Callable, Iterator
from typing import Any

from grelmicro.inject._declarations import Declaration
from grelmicro.inject._types import UNKNOWN

__all__ = ["Registry"]


class Registry:
    """Declarations, aliases, and what scopes are opened with."""

    def __init__(self) -> None:
        self.named: dict[str, Declaration] = {}
        self._entered: set[Declaration] = set()
        self.unnamed: dict[Declaration, None] = {}
        self.functions: dict[Callable[..., Any], str] = {}
        """The name that a declared function was given last."""
        self.aliases: dict[str | type, str | type | Callable[..., Any]] = {}
        self.given: dict[str, Any] = {}
        """Names, with their types."""

    def __iter__(self) -> Iterator[Declaration]:
        return iter((*self.named.values(), *self.unnamed))

    def __contains__(self, declaration: Declaration) -> bool:
        """Whether it counts, or did until its name was redeclared."""
        return declaration in self._entered

    def enter(self, declaration: Declaration) -> None:
        """Take in a declaration; a name that was there already is redeclared."""
        name = declaration.name
        self._entered.add(declaration)
        if name is None:
            self.unnamed[declaration] = None
            return
        self.named.pop(name, None)  # in the order of what counts now
        self.named[name] = declaration
        self.aliases.pop(name, None)
        self.functions[declaration.function] = name

    def leave(self, name: str) -> None:
        """Forget what has a name."""
        declaration = self.named.pop(name)
        self._entered.discard(declaration)
        if self.functions.get(declaration.function) == name:
            del self.functions[declaration.function]

    def give(self, types: dict[str, Any]) -> None:
        """Take in names that scopes are opened with."""
        self.given |= {name: UNKNOWN if kind is object else kind for name, kind in types.items()}
