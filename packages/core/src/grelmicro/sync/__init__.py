"""Synchronization: the contract of a backend, and its component.

The primitives that stand on it (locks, task locks, leader election) are not part of this release.
"""

import pkgutil

__path__ = pkgutil.extend_path(__path__, __name__)

from grelmicro.errors import SyncError, SyncSettingsValidationError
from grelmicro.sync._component import Sync
from grelmicro.sync._contract import SyncBackend

__all__ = ["Sync", "SyncBackend", "SyncError", "SyncSettingsValidationError"]
