"""The synchronization component."""

from grelmicro._component import Component
from grelmicro.sync._contract import SyncBackend

__all__ = ["Sync"]


class Sync(Component[SyncBackend]):
    """Synchronization served by an app: `Sync(provider)` or `Sync(adapter)`."""

    kind = "sync"
