"""Where providers are found: listed modules, and `providerconf` in the working directory."""

import importlib
import os
import sys
from collections.abc import Iterable, Iterator
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from pathlib import Path
from types import ModuleType

from grelmicro.inject._declarations import Declaration, declarations_of

__all__ = ["caller", "found_by_default", "found_in"]

VARIABLE = "PROVIDER_MODULES"
CONVENTION = "providerconf"


def found_in(modules: Iterable[str | ModuleType], listed_by: str) -> Iterator[Declaration]:
    """What is declared in modules, or imported by them, in the order of their names there."""
    for module in modules:
        loaded = module if isinstance(module, ModuleType) else _imported(module, listed_by)
        for value in [*vars(loaded).values()]:
            yield from declarations_of(value)


def found_by_default() -> Iterator[Declaration]:
    """What the environment lists, and what stands in the working directory."""
    names = os.environ.get(VARIABLE, "").replace(",", " ").split()
    yield from found_in(names, f"the variable {VARIABLE}")
    if (module := _conventional()) is not None:
        yield from found_in([module], "")


def caller() -> str:
    """File and line of who called the public function."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals["__name__"].startswith("grelmicro.inject"):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


def _imported(name: str, listed_by: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except Exception as error:  # whatever it is, who listed the module has to be told
        error.add_note(f"while importing the provider module {name!r}, listed by {listed_by}")
        raise


def _conventional() -> ModuleType | None:
    """`providerconf` of the working directory, whatever the path for imports is."""
    folder = str(Path.cwd())
    spec = PathFinder.find_spec(CONVENTION, [folder])
    if spec is None or spec.loader is None:
        return None
    there = sys.modules.get(CONVENTION)
    if there is not None and getattr(there, "__file__", None) == spec.origin:
        return there
    module = sys.modules[CONVENTION] = module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        sys.modules.pop(CONVENTION, None)
        error.add_note(f"while importing {spec.origin}, found in the working directory")
        raise
    return module
