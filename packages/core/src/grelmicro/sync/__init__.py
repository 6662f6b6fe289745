"""Synchronization: locks, locks for scheduled jobs, and leader election, in the whole fleet."""

import pkgutil

__path__ = pkgutil.extend_path(__path__, __name__)

from grelmicro.errors import (
    LockAcquireError,
    LockLockedCheckError,
    LockLostError,
    LockNotOwnedError,
    LockOwnedCheckError,
    LockReentrantError,
    LockReleaseError,
    LockTimeoutError,
    SyncBackendError,
    SyncError,
    SyncSettingsValidationError,
    WouldBlockError,
)
from grelmicro.sync._component import Sync
from grelmicro.sync._contract import SyncBackend
from grelmicro.sync._election import LeaderElection
from grelmicro.sync._holds import LockHandle
from grelmicro.sync._lock import Lock
from grelmicro.sync._task_lock import TaskLock

__all__ = [
    "Lock",
    "LockHandle",
    "TaskLock",
    "LeaderElection",
    "Sync",
    "SyncBackend",
    "LockAcquireError",
    "LockLockedCheckError",
    "LockLostError",
    "LockNotOwnedError",
    "LockOwnedCheckError",
    "LockReentrantError",
    "LockReleaseError",
    "LockTimeoutError",
    "SyncBackendError",
    "SyncError",
    "SyncSettingsValidationError",
    "WouldBlockError",
]
