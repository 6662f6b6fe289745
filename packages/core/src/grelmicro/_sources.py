"""Where a primitive finds its backend."""

from collections.abc import Callable
from typing import Any

from grelmicro._component import Component
from grelmicro._kinds import KINDS
from grelmicro._runtime import ambient_backend

__all__ = ["backend_source"]


def backend_source(kind: str, backend: Any) -> Callable[[], Any]:
    """Make the function that finds the backend, anew for every call.

    Args:
        kind: The kind of component that the primitive needs.
        backend: An adapter; a component; the name of a component of the open app; or None for the
            default one.

    Raises:
        TypeError: It is none of these.
    """
    row = KINDS[kind]
    if backend is None or isinstance(backend, str):
        return ambient_backend(kind, backend or "default")
    if isinstance(backend, Component) and backend.kind == kind:
        return lambda: backend.serving
    if isinstance(backend, type) or not row.fits(backend):
        raise TypeError(
            f"backend: expected a {row.contract_name}, a {row.component_name}, "
            f"or a component's name, not {type(backend).__name__}"
        )
    return lambda: backend
