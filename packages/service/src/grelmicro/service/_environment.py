"""Environment variables over what files say, field by field."""

import json
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Union, get_args, get_origin

from grelmicro.errors import SettingsValidationError
from grelmicro.service._schemas import Field, fields_of, is_section

__all__ = ["Overlay"]

_UNIONS = (Union, types.UnionType)
_JSON = (Mapping, Sequence, set, frozenset)
_TEXT = (str, bytes)


class Overlay:
    """Reads the variables of one prefix.

    Args:
        prefix: Of all names, without the underscore that follows.
        environment: The variables.
    """

    def __init__(self, prefix: str, environment: Mapping[str, str]) -> None:
        self._prefix = prefix
        self._environment = environment
        self.read: set[str] = set()
        """The names that were looked for."""

    def name(self, *path: str) -> str:
        """The variable of a field."""
        words = (self._prefix, *path) if self._prefix else path
        return "_".join(word.upper().replace("-", "_").replace(".", "_") for word in words)

    def over(
        self, values: Mapping[str, Any], cls: Any, path: tuple[str, ...], around: Any = ()
    ) -> dict[str, Any]:
        """What is said of a class's fields, the environment over the values."""
        found = dict(values)
        for field in fields_of(cls):
            inner = _section_of(field.annotation)
            if inner is None:
                self._set(found, field, path)
            elif inner not in around:
                self._set_inner(found, field, inner, path, (*around, inner))
        return found

    def _set_inner(
        self, found: dict[str, Any], field: Field, inner: Any, path: tuple[str, ...], around: Any
    ) -> None:
        before = found.get(field.name)
        within = before if isinstance(before, Mapping) else {}
        values = self.over(within, inner, (*path, field.name), around)
        if values or isinstance(before, Mapping):
            found[field.name] = values

    def _set(self, found: dict[str, Any], field: Field, path: tuple[str, ...]) -> None:
        variable = self.name(*path, field.name)
        self.read.add(variable)
        if (text := self._environment.get(variable)) is None:
            return
        found[field.name] = _parsed(text, field, variable)


def _parsed(text: str, field: Field, variable: str) -> Any:
    if field.converter is not None or not _is_json(field.annotation):
        return text
    try:
        return json.loads(text)
    except ValueError:
        raise SettingsValidationError(
            f"{variable}: it is no JSON, which the value of {field.name!r} is written in: "
            """use ["a", "b"] or {"a": "b"}"""
        ) from None


def _is_json(annotation: Any) -> bool:
    """Whether a value is written as JSON: lists and dicts, and no text at all."""
    kinds = [*_kinds(annotation)]
    return any(_is_subclass(kind, _JSON) for kind in kinds) and str not in kinds


def _section_of(annotation: Any) -> Any:
    """The only class with fields of its own that an annotation names."""
    sections = [kind for kind in _kinds(annotation) if is_section(kind)]
    return sections[0] if len(sections) == 1 else None


def _kinds(annotation: Any) -> Iterator[Any]:
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _kinds(get_args(annotation)[0])
    elif origin in _UNIONS:
        for each in get_args(annotation):
            yield from _kinds(each)
    else:
        yield origin or annotation


def _is_subclass(kind: Any, bases: tuple[Any, ...]) -> bool:
    return isinstance(kind, type) and issubclass(kind, bases) and not issubclass(kind, _TEXT)
