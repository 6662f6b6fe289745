"""The errors of injection.

GrelmicroError
└─ InjectionError
     ├─ DeclarationError(ValueError)        a provider that cannot be declared like this, or so late
     ├─ GraphError(TypeError)               everything that does not fit together, all at once
     ├─ ProviderNotFoundError(LookupError)  asked for by a name or a type that nothing provides
     └─ ProviderYieldError(RuntimeError)    a provider yielded twice, or not at all
"""

from collections.abc import Iterable

from grelmicro.errors import GrelmicroError

__all__ = [
    "DeclarationError",
    "GraphError",
    "InjectionError",
    "ProviderNotFoundError",
    "ProviderYieldError",
]


class InjectionError(GrelmicroError):
    """Root of what injection raises on purpose."""


class DeclarationError(InjectionError, ValueError):
    """A declaration with an unknown scope, a wrong combination, or after the graph was frozen."""


class GraphError(InjectionError, TypeError):
    """What is declared does not fit together; every fault is listed, each with its path."""

    def __init__(self, faults: Iterable[str]) -> None:
        self.faults: tuple[str, ...] = tuple(faults)
        """One text a fault."""
        count = f"{len(self.faults)} fault{'s' if len(self.faults) > 1 else ''}"
        super().__init__("\n".join([f"the providers have {count}:", *self.faults]))


class ProviderNotFoundError(InjectionError, LookupError):
    """Nothing provides what was asked for by name or type, or several do."""


class ProviderYieldError(InjectionError, RuntimeError):
    """A generator provider has to yield once: it yielded a second time, or never."""
