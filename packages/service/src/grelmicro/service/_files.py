"""Configuration files: TOML and JSON by the standard library, YAML where PyYAML is installed."""

import importlib
import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from grelmicro.errors import DependencyNotFoundError, SettingsValidationError

__all__ = ["read"]


def read(path: str | Path) -> dict[str, Any]:
    """Read a file, in the format that its suffix names: .toml, .json, .yaml or .yml.

    Raises:
        OSError: It cannot be read.
        SettingsValidationError: It has another suffix, is not in its format, or has no table.
        DependencyNotFoundError: It is YAML, and PyYAML is not installed.
    """
    path = Path(path)
    parse = _PARSERS.get(path.suffix.lower())
    if parse is None:
        raise SettingsValidationError(
            f"{path}: configuration is read from {', '.join(_PARSERS)} files"
        )
    try:
        found = parse(path.read_text(encoding="utf-8"))
    except (ValueError, SyntaxError) as error:
        where = f"line {error.lineno}" if hasattr(error, "lineno") else str(error)
        raise SettingsValidationError(f"{path}: not {path.suffix[1:].upper()}: {where}") from None
    if not isinstance(found, dict):
        raise SettingsValidationError(f"{path}: it has no table of names and values at its top")
    return found


def _yaml(text: str) -> Any:
    try:
        yaml: Any = importlib.import_module("yaml")  # it has no types of its own
    except ImportError:
        raise DependencyNotFoundError("YAML files need PyYAML: pip install pyyaml") from None
    try:
        return yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise ValueError(f"line {mark.line + 1}" if mark else "it cannot be parsed") from None


_PARSERS: dict[str, Callable[[str], Any]] = {
    ".toml": tomllib.loads,
    ".json": json.loads,
    ".yaml": _yaml,
    ".yml": _yaml,
}
