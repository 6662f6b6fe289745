"""The one table of component kinds.

The composer, `Provider`, discovery, the command line and the conformance kit all read it: a new
kind is a row here, a factory on `Provider` and the component and contract that the row names.
"""

import functools
import importlib
from typing import Any, NamedTuple

__all__ = ["KINDS", "Kind", "kind_of_adapter"]


class Kind(NamedTuple):
    """One row: what a kind is called, and where its parts live."""

    name: str
    factory: str
    """The method of `Provider` that makes the kind's adapter."""
    component: str
    """`module:class` of the component."""
    contract: str
    """`module:class` of the protocol its backends follow."""

    @property
    def contract_name(self) -> str:
        """The protocol's own name, for messages."""
        return self.contract.partition(":")[2]

    @property
    def component_name(self) -> str:
        """The component's own name, for messages."""
        return self.component.partition(":")[2]

    def wrap(self, source: object, name: str = "default") -> Any:
        """Make the component of this kind around a provider or an adapter."""
        return _load(self.component)(source, name=name)

    def fits(self, adapter: object) -> bool:
        """Tell whether `adapter` has every method of the contract."""
        return all(callable(getattr(adapter, method, None)) for method in _methods(self.contract))


_ROWS = (
    Kind("cache", "cache", "grelmicro.cache:Cache", "grelmicro.cache:CacheBackend"),
    Kind("sync", "sync", "grelmicro.sync:Sync", "grelmicro.sync:SyncBackend"),
    Kind(
        "ratelimiter",
        "ratelimiter",
        "grelmicro.resilience:RateLimit",
        "grelmicro.resilience:RateLimiterBackend",
    ),
    Kind(
        "circuitbreaker",
        "breaker",
        "grelmicro.resilience:Breaker",
        "grelmicro.resilience:CircuitBreakerBackend",
    ),
)

KINDS = {row.name: row for row in _ROWS}


def kind_of_adapter(item: object) -> Kind | None:
    """Tell which contract `item` follows; None when it follows none.

    Raises:
        TypeError: It follows several, so that only its component can say which is meant.
    """
    fitting = [kind for kind in KINDS.values() if kind.fits(item)]
    if len(fitting) > 1:
        components = " or ".join(f"{kind.component_name}(...)" for kind in fitting)
        raise TypeError(f"{type(item).__name__} follows several contracts: wrap it in {components}")
    return fitting[0] if fitting else None


def _load(path: str) -> Any:
    module, _, attribute = path.partition(":")
    return getattr(importlib.import_module(module), attribute)


@functools.cache
def _methods(contract: str) -> tuple[str, ...]:
    members = vars(_load(contract)).items()
    return tuple(name for name, member in members if callable(member) and name[0] != "_")
