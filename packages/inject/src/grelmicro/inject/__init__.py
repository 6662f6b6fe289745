"""Runtime injection: providers declared once, injected into views by name or type.

The functions of this module declare to, and use, the default container.
"""

from grelmicro.inject._consumers import Consumer, useprovider, uses_of
from grelmicro.inject._container import Container
from grelmicro.inject._default import (
    add,
    alias,
    container,
    discover_providers,
    override,
    provider,
    register,
)
from grelmicro.inject._errors import (
    DeclarationError,
    GraphError,
    InjectionError,
    ProviderNotFoundError,
    ProviderYieldError,
)
from grelmicro.inject._graph import Graph
from grelmicro.inject._nodes import Use
from grelmicro.inject._scope import Scope

__all__ = [
    "provider",
    "useprovider",
    "discover_providers",
    "add",
    "register",
    "alias",
    "override",
    "container",
    "Container",
    "Use",
    "Consumer",
    "uses_of",
    "Graph",
    "Scope",
    "DeclarationError",
    "GraphError",
    "InjectionError",
    "ProviderNotFoundError",
    "ProviderYieldError",
]
