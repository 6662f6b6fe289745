"""The synchronization component."""

from typing import Any

from grelmicro._component import Component
from grelmicro.sync._contract import SyncBackend
from grelmicro.sync._election import LeaderElection
from grelmicro.sync._lock import Lock
from grelmicro.sync._task_lock import TaskLock

__all__ = ["Sync"]


class Sync(Component[SyncBackend]):
    """Synchronization served by an app: `Sync(provider)` or `Sync(adapter)`."""

    kind = "sync"

    def lock(self, name: str, **kwargs: Any) -> Lock:
        """Make a lock on this component: `Lock(name, backend=self, **kwargs)`."""
        return Lock(name, backend=self, **kwargs)

    def task_lock(self, name: str, **kwargs: Any) -> TaskLock:
        """Make a lock for a job on this component: `TaskLock(name, backend=self, **kwargs)`."""
        return TaskLock(name, backend=self, **kwargs)

    def leader_election(self, name: str, **kwargs: Any) -> LeaderElection:
        """Make an election on this component: `LeaderElection(name, backend=self, **kwargs)`."""
        return LeaderElection(name, backend=self, **kwargs)
