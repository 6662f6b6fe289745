"""structlog and the standard library's logging through one chain: a console, or lines of JSON.

Meant for the entry point of a process: it is the process's logging that is set up.
"""

import logging
import sys
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TextIO

from grelmicro.service.config import Config

__all__ = ["LogConfig"]


@dataclass(frozen=True)
class LogConfig(Config, section="log"):
    """How a process logs.

    Args:
        tty: True: for eyes, in colours; False: JSON, one object a line. None: as stderr is.
        level: The least that is logged: "DEBUG", "INFO", "WARNING", "ERROR" or "CRITICAL".

    Raises:
        ValueError: There is no such level.
    """

    tty: bool | None = None
    level: str = "INFO"

    def __post_init__(self) -> None:
        if self.level.upper() not in logging.getLevelNamesMapping():
            known = ", ".join(logging.getLevelNamesMapping())
            raise ValueError(f"level: there is no {self.level!r}; there are {known}")

    def setup(self, stream: TextIO | None = None) -> None:
        """Have all of the process log like this, to stderr; uncaught exceptions are logged too.

        Again: the last one counts.

        Args:
            stream: Where to, instead of stderr.
        """
        import structlog

        stream = stream or sys.stderr
        tty = stream.isatty() if self.tty is None else self.tty
        shared = _shared_processors()
        structlog.configure(
            processors=[
                structlog.stdlib.filter_by_level,
                *shared,
                structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
            ],
            logger_factory=structlog.stdlib.LoggerFactory(),
            wrapper_class=structlog.stdlib.BoundLogger,
            cache_logger_on_first_use=True,
        )
        handler = _Handler(stream)
        handler.setFormatter(
            structlog.stdlib.ProcessorFormatter(
                foreign_pre_chain=[structlog.stdlib.ExtraAdder(), *shared],
                processors=[
                    structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                    *_rendering(tty),
                ],
            )
        )
        _install(handler, self.level.upper())


class _Handler(logging.StreamHandler[TextIO]):
    """Ours, to be found again."""


def _shared_processors() -> list[Any]:
    import structlog

    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso"),
        structlog.processors.StackInfoRenderer(),
    ]


def _rendering(tty: bool) -> list[Any]:
    import structlog

    if tty:
        return [structlog.dev.ConsoleRenderer()]
    return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]


def _install(handler: logging.Handler, level: str) -> None:
    root = logging.getLogger()
    for old in [each for each in root.handlers if isinstance(each, _Handler)]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level)
    sys.excepthook = _log_uncaught


def _log_uncaught(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    if not issubclass(kind, Exception):  # Ctrl-C is no error
        sys.__excepthook__(kind, error, traceback)
        return
    logging.getLogger("grelmicro.service").critical(
        "uncaught exception", exc_info=(kind, error, traceback)
    )
