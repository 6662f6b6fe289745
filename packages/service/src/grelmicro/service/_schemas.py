"""One converter for attrs classes, dataclasses and pydantic models: pydantic.

The core brings it already; it reads dates, paths, enumerations, URLs and constraints, refuses what
would lose something (5.7 for an int), and tells all faults at once, each with its field. What it
does not know, attrs classes, it is told here; dataclasses too, as attrs classes may be in them.
"""

import dataclasses
import functools
import inspect
import operator
import types
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import (
    Annotated,
    Any,
    ClassVar,
    NamedTuple,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

__all__ = ["Field", "converted", "fields_of", "is_section"]

T = TypeVar("T")

_UNIONS = (Union, types.UnionType)


class Field(NamedTuple):
    """One field of a class that configuration is loaded into."""

    name: str
    """What it is called in files, and where the class is called."""
    annotation: Any
    required: bool
    converter: Callable[[Any], Any] | None = None


def is_section(cls: Any) -> bool:
    """Whether a class has fields of its own that can be configured one by one."""
    if not isinstance(cls, type):
        return False
    return dataclasses.is_dataclass(cls) or hasattr(cls, "__attrs_attrs__") or _is_model(cls)


def _is_model(cls: type) -> bool:
    return hasattr(cls, "__pydantic_validator__") and hasattr(cls, "model_fields")


def fields_of(cls: Any) -> list[Field]:
    """The fields that a class is called with."""
    if _is_model(cls):
        return [*_model_fields(cls)]
    hints = get_type_hints(cls, include_extras=True)
    if hasattr(cls, "__attrs_attrs__"):
        return [*_attrs_fields(cls, hints)]
    return [*_dataclass_fields(cls, hints)]


def _model_fields(cls: Any) -> Iterator[Field]:
    for name, info in cls.model_fields.items():
        yield Field(info.alias or name, info.annotation, info.is_required())


def _attrs_fields(cls: Any, hints: Mapping[str, Any]) -> Iterator[Field]:
    import attrs

    for each in attrs.fields(cls):
        if each.init:
            required = each.default is attrs.NOTHING
            annotation = hints.get(each.name, Any)
            yield Field(each.alias, annotation, required, _plain(each.converter))


def _plain(converter: Any) -> Callable[[Any], Any] | None:
    """A converter that takes nothing but the value; others are left to the class."""
    return converter if inspect.isroutine(converter) or isinstance(converter, type) else None


def _dataclass_fields(cls: Any, hints: Mapping[str, Any]) -> Iterator[Field]:
    missing = dataclasses.MISSING
    for each in dataclasses.fields(cls):
        if each.init:
            required = each.default is missing and each.default_factory is missing
            yield Field(each.name, hints[each.name], required)


def converted(cls: type[T], values: Mapping[str, Any]) -> T:
    """Make an instance of a class from what files and the environment say.

    Raises:
        pydantic.ValidationError: All that does not fit.
    """
    found: T = _adapter(cast("Hashable", cls)).validate_python(values)
    return found


@functools.lru_cache(maxsize=256)
def _adapter(cls: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(_known(cls))


def _known(annotation: Any, around: tuple[Any, ...] = ()) -> Any:
    """An annotation in which pydantic understands every class."""
    if isinstance(annotation, type) and is_section(annotation) and not _is_model(annotation):
        if annotation in around:
            raise TypeError(f"{annotation.__name__}: a configuration cannot contain itself")
        return Annotated[annotation, _Fields(annotation, (*around, annotation))]
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is ClassVar or not arguments:
        return annotation
    if origin is Annotated:
        return Annotated[(_known(arguments[0], around), *arguments[1:])]
    inner = tuple(_known(each, around) for each in arguments)
    if origin in _UNIONS:
        return functools.reduce(operator.or_, inner)
    return annotation if inner == arguments else origin[inner]


class _Fields:
    """Tells pydantic how a class is made: by a call, with what is there of its fields."""

    def __init__(self, cls: Any, around: tuple[Any, ...]) -> None:
        self._cls = cls
        self._around = around

    def __get_pydantic_core_schema__(self, _source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        cls = self._cls
        reference = f"{cls.__module__}.{cls.__qualname__}:{id(cls)}"
        fields = {
            each.name: core_schema.typed_dict_field(
                self._schema(each, handler), required=each.required
            )
            for each in fields_of(cls)
        }
        return core_schema.no_info_after_validator_function(
            lambda values: cls(**values),
            core_schema.typed_dict_schema(fields, extra_behavior="ignore"),
            ref=reference,
        )

    def _schema(self, field: Field, handler: Any) -> Any:
        """A field with a converter is tried with that, which the class then calls itself."""
        from pydantic_core import core_schema

        convert = field.converter
        if convert is None:
            return handler.generate_schema(_known(field.annotation, self._around))

        def tried(value: Any) -> Any:
            convert(value)
            return value

        return core_schema.no_info_plain_validator_function(tried)
