"""Caching: `TTLCache`, the `cached` decorator, serializers, and the contract of a backend."""

import pkgutil

__path__ = pkgutil.extend_path(__path__, __name__)

from grelmicro.cache._cached import cached
from grelmicro.cache._component import Cache
from grelmicro.cache._contract import CacheBackend, CacheInfo, CacheSerializer
from grelmicro.cache.serializers import (
    CompressedSerializer,
    JsonSerializer,
    PickleSerializer,
    PydanticSerializer,
    SignedSerializer,
)
from grelmicro.cache.ttl import TTLCache
from grelmicro.errors import CacheError, CacheSettingsValidationError

__all__ = [
    "Cache",
    "CacheBackend",
    "CacheError",
    "CacheInfo",
    "CacheSerializer",
    "CacheSettingsValidationError",
    "CompressedSerializer",
    "JsonSerializer",
    "PickleSerializer",
    "PydanticSerializer",
    "SignedSerializer",
    "TTLCache",
    "cached",
]
