"""The page about errors has each of them, and no other."""

import importlib
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

import grelmicro

PAGE = Path(__file__).parents[1] / "docs" / "errors.md"


def public_errors() -> Iterator[str]:
    """The names of all exceptions that a public module of an installed distribution offers."""
    for found in pkgutil.walk_packages(grelmicro.__path__, "grelmicro."):
        if any(part.startswith("_") for part in found.name.split(".")):
            continue
        module = importlib.import_module(found.name)
        for name in getattr(module, "__all__", ()):
            offered = getattr(module, name)
            if isinstance(offered, type) and issubclass(offered, BaseException):
                yield offered.__name__


def test_every_error_is_explained_and_no_other() -> None:
    rows = re.findall(r"^\| (`\w+Error`[^|]*)\|", PAGE.read_text(), re.MULTILINE)
    explained = re.findall(r"`(\w+Error)`", "".join(rows))
    assert sorted(set(explained) - {"ConnectionError"}) == sorted({*public_errors()})
