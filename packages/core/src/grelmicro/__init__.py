"""The microservice toolkit: caching, locks, rate limits and circuit breakers over any backend."""

import pkgutil

__path__ = pkgutil.extend_path(__path__, __name__)

from grelmicro.app import Grelmicro
from grelmicro.errors import (
    ComponentAlreadyRegisteredError,
    ComponentNotRegisteredError,
    GrelmicroError,
    NoActiveAppError,
)

__all__ = [
    "ComponentAlreadyRegisteredError",
    "ComponentNotRegisteredError",
    "Grelmicro",
    "GrelmicroError",
    "NoActiveAppError",
]
