"""Plugins, and the stage on which they are prepared and run.

A plugin is a module with `async def prepare(...)`. It adds components to the context, loads other
plugins, and yields or returns what the service is to run.
"""

from typing import Any

from grelmicro.service import _loops
from grelmicro.service._errors import ServiceError, StartupTimeoutError
from grelmicro.service._lifecycle import Cancel, Ready, Teardown
from grelmicro.service._loading import Loader
from grelmicro.service._references import Reference, absolute, calling_package
from grelmicro.service._restarts import task
from grelmicro.service._signals import Signals
from grelmicro.service._stage import Stage

__all__ = [
    "Cancel",
    "Loader",
    "Ready",
    "Reference",
    "ServiceError",
    "Signals",
    "Stage",
    "StartupTimeoutError",
    "Teardown",
    "stage",
    "task",
]


def stage(*plugins: Reference, grace: float = 25.0, startup_timeout: float = 60.0) -> list[Any]:
    """Prepare plugins and run what they yield, until all of that is done or it is to stop.

    It stops on SIGINT, on SIGTERM, when `Cancel` is set, when all is done, and when something
    raises. Then what heeds `Cancel` may finish, everything else is cancelled, and what was set up
    is undone, the last first. A second signal cuts that short.

    Args:
        plugins: Each "pkg.mod" or "pkg.mod:attribute", a module, or a `prepare` function.
        grace: Seconds in which it has stopped; above 0.
        startup_timeout: Seconds in which all plugins have to be prepared, and servers to start;
            above 0.

    Returns:
        What became of each thing that was run, in the order of loading. Exceptions, cancellations
        too, are values; those that are no cancellation were logged.

    Raises:
        ImportError: There is no such plugin.
        ValueError: It is none, or a time is not above 0.
        Exception: What a plugin has raised while it was prepared.
        StartupTimeoutError: What it names was not prepared, or did not start, in time.
        ExceptionGroup: Not everything could be undone.
    """
    package = calling_package(1)
    references = [absolute(each, package) for each in plugins]
    return _loops.run(_staged(references, grace, startup_timeout))


async def _staged(references: list[Reference], grace: float, startup_timeout: float) -> list[Any]:
    return await Stage(grace=grace, startup_timeout=startup_timeout).run(references)
