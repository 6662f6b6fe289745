"""What a process says by its exit status: 0 is clean, 1 something failed."""

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Any

from grelmicro.errors import GrelmicroError

__all__ = ["described", "run"]

_log = logging.getLogger("grelmicro.service")


def run(stage: Callable[[], Iterable[Any]]) -> int:
    """Run a stage; what it raises is logged.

    Args:
        stage: Its results, exceptions as values; those were logged.

    Returns:
        The exit status.
    """
    try:
        return _status(stage())
    except SystemExit as leaving:
        return _code(leaving)
    except GrelmicroError as error:  # its message says what to do, and a traceback does not
        _log.critical("the service failed: %s", error)
    except Exception:
        _log.critical("the service failed", exc_info=True)
    return 1


def described(code: int) -> str:
    """What became of a process, in words."""
    import signal

    if code >= 0:
        return f"exited with {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"


def _status(results: Iterable[Any]) -> int:
    failures = [
        each
        for each in results
        if isinstance(each, BaseException) and not isinstance(each, asyncio.CancelledError)
    ]
    codes = [_code(each) if isinstance(each, SystemExit) else 1 for each in failures]
    return next(filter(None, codes), 0)


def _code(leaving: SystemExit) -> int:
    if leaving.code is None:
        return 0
    return leaving.code if isinstance(leaving.code, int) else 1
