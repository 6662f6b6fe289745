"""What a backend needs that tells waiters of a lock when it is free.

Without it, waiters ask every now and then. A backend whose store has messages makes one `Waiters`,
and hands its own `wait` on to it. Each process stands in a queue of the store for every name that
its tasks wait for; who gives a lease back tells the first process in the queue alone, and keeps the
lease for that one for `GRACE` seconds. The adapter calls `Waiters.heard` with every message.

Every backend of locks awaits `settle(self)` in its `closing`: what primitives of this process could
not give back, they get a moment to give back then.
"""

from grelmicro.sync._local import local_of
from grelmicro.sync._waiters import GRACE, Waiters

__all__ = ["GRACE", "Waiters", "settle"]


async def settle(backend: object) -> None:
    """Wait a moment for what the primitives on a backend still have to give back.

    Args:
        backend: The adapter that is being closed, while its provider is open.
    """
    await local_of(backend).settle()
