"""The errors of a service.

GrelmicroError
└─ ServiceError
     ├─ StartupTimeoutError(TimeoutError)   plugins were not prepared in time; it names them
     └─ WorkersError(RuntimeError)          forked workers that do not start, or keep crashing
"""

from grelmicro.errors import GrelmicroError

__all__ = ["ServiceError", "StartupTimeoutError", "WorkersError"]


class ServiceError(GrelmicroError):
    """Root of what a service raises on purpose."""


class StartupTimeoutError(ServiceError, TimeoutError):
    """Plugins were not prepared in time; the message names those that hang."""


class WorkersError(ServiceError, RuntimeError):
    """Workers did not start, or crashed again and again."""
