"""Teardown in a cancel scope of anyio that was cancelled, such as one of a middleware.

A container holds back what cancels the task that it closes in. But such a scope stays cancelled,
and anyio's own primitives ask for it: in a teardown, they would wait for an error that is held
back. So what is closed because of it is closed behind anyio's shield as well; how long that may
take is up to the container. A provider had better not hold a task group of anyio over its `yield`:
under the shield it cannot be left properly.
"""

from math import inf

from anyio import CancelScope, current_effective_deadline

from grelmicro.inject import Scope

__all__ = ["close"]


async def close(scope: Scope, error: BaseException) -> None:
    """Close a scope whose view failed or was cancelled."""
    if current_effective_deadline() > -inf:
        await scope.close(error)
        return
    with CancelScope(shield=True):
        await scope.close(error)
