"""What the conformance kit has to know: the entry point `grelmicro.conformance` leads here."""

import atexit
import functools
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp

from grelmicro.testing.conformance import Subject
from grelmicro_sqlite.provider import SQLiteProvider

__all__ = ["subject"]


def subject(url: str | None = None) -> Subject:
    """The file at `url`; without one, a new file that is removed when this process ends."""
    return on(url or _throwaway())


def on(url: str) -> Subject:
    """The subject of a file; other processes make an equal one."""
    return Subject(
        "sqlite",
        lambda: SQLiteProvider(url),
        options=lambda kind, space: {"prefix": f"{space}:"},
        again=functools.partial(on, url),
    )


def _throwaway() -> str:
    folder = mkdtemp(prefix="grelmicro-sqlite-")
    atexit.register(rmtree, folder, ignore_errors=True)
    return Path(folder, "conformance.db").as_uri().replace("file:", "sqlite:/", 1)
