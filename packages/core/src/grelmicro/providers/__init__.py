"""Providers: connections that an application opens once and every component borrows."""

import pkgutil

__path__ = pkgutil.extend_path(__path__, __name__)

from grelmicro.errors import DependencyNotFoundError
from grelmicro.providers._adapter import ProviderAdapter
from grelmicro.providers._discovery import autodiscover, available, from_url, load
from grelmicro.providers._provider import Provider

__all__ = [
    "DependencyNotFoundError",
    "Provider",
    "ProviderAdapter",
    "autodiscover",
    "available",
    "from_url",
    "load",
]
