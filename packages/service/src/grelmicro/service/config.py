"""Configuration: mappings merged in order, the environment over them, typed classes out of it.

As a plugin, `await load(config)`, it lets `di` make the `Config` classes that are asked for.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

from grelmicro.errors import SettingsValidationError
from grelmicro.service import di
from grelmicro.service._environment import Overlay
from grelmicro.service._files import read
from grelmicro.service._schemas import converted, fields_of, is_section
from grelmicro.service._secrets import is_secret, masked

__all__ = ["Config", "ConfigSource", "bool_var", "prepare", "read"]

T = TypeVar("T")

_WORDS = {
    **dict.fromkeys(("1", "on", "t", "true", "y", "yes"), True),
    **dict.fromkeys(("0", "off", "f", "false", "n", "no"), False),
}


class ConfigSource(dict[str, Any]):
    """The settings of a service, from any number of mappings; a later one is over those before.

    Tables are merged, anything else is replaced. Over all of them are the environment's variables
    `{env_prefix}_{SECTION}_{FIELD}`, and `{env_prefix}_{FIELD}` for what stands in no section.

    Args:
        mappings: Such as files that were read; they are copied.
        env_prefix: What the names of variables begin with. Empty: the environment is not read.
    """

    def __init__(self, *mappings: Mapping[str, Any], env_prefix: str = "APP") -> None:
        super().__init__()
        for each in mappings:
            _merge(self, each)
        self.env_prefix: str = env_prefix
        self._read: set[str] = set()
        self._claimed: dict[str, type] = {}

    @classmethod
    def from_files(cls, *paths: str | Path, env_prefix: str = "APP") -> Self:
        """Read files, a later one over those before: see `read`."""
        return cls(*map(read, paths), env_prefix=env_prefix)

    def load(self, cls: type[T], section: str | None = None) -> T:
        """Make an instance of a class from a section, and the environment over it.

        Args:
            cls: An attrs class, a dataclass or a pydantic model.
            section: Whose values to take; dots lead to tables in tables. None: those of no section.

        Raises:
            SettingsValidationError: All that is missing or wrong, by field and by variable. Values
                are not shown.
            TypeError: It is no such class.
        """
        if not is_section(cls):
            raise TypeError(
                f"load({getattr(cls, '__name__', cls)}): use an attrs class, a dataclass or a "
                "pydantic model"
            )
        path = tuple(section.split(".")) if section else ()
        overlay = Overlay(self.env_prefix, os.environ if self.env_prefix else {})
        values = overlay.over(self._table(path), cls, path)
        self._read |= overlay.read
        if not path:  # other tables are not its own
            names = [field.name for field in fields_of(cls)]
            values = {name: values[name] for name in names if name in values}
        return self._converted(cls, values, path, overlay)

    def claim(self, cls: type, section: str) -> None:
        """Let a section belong to a class.

        Raises:
            SettingsValidationError: It belongs to another one.
        """
        owner = self._claimed.setdefault(section, cls)
        if owner is not cls:
            raise SettingsValidationError(
                f"[{section}]: claimed by {_path_of(owner)} and by {_path_of(cls)}: "
                "give one of them another section="
            )

    def unread(self) -> list[str]:
        """The variables with the prefix that nothing has asked for yet, sorted."""
        begin = f"{self.env_prefix}_"
        if not self.env_prefix:
            return []
        names = (name for name in os.environ if name.startswith(begin))
        return sorted(set(names) - self._read)

    def _table(self, path: tuple[str, ...]) -> Mapping[str, Any]:
        table: Any = dict(self)
        for depth, name in enumerate(path, 1):
            table = table.get(name, {})
            if not isinstance(table, Mapping):
                raise SettingsValidationError(
                    f"[{'.'.join(path[:depth])}]: it is a value, no table"
                )
        found: Mapping[str, Any] = table
        return found

    def _converted(
        self, cls: type[T], values: Mapping[str, Any], path: tuple[str, ...], overlay: Overlay
    ) -> T:
        from pydantic import ValidationError

        try:
            return converted(cls, values)
        except ValidationError as error:
            lines = [_line(each, path, overlay, bool(self.env_prefix)) for each in error.errors()]
        raise SettingsValidationError("\n".join(lines))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({masked(self)!r}, env_prefix={self.env_prefix!r})"


class Config:
    """Base of classes that are loaded from a section: `class Web(Config, section="web")`.

    With a `ConfigSource` in the context and this module loaded as a plugin, a parameter annotated
    with such a class, or `di.nject`, gets an instance. It can be combined with attrs, dataclasses
    and pydantic. Without a section, it takes the values of no section.
    """

    section: ClassVar[str | None] = None
    """Where its values are."""

    def __init_subclass__(cls, *, section: str | None = None, **options: Any) -> None:
        super().__init_subclass__(**options)
        if section is not None:
            cls.section = section

    @classmethod
    def adapt(cls, source: ConfigSource) -> Self:
        """Load an instance; what `di` makes these classes by.

        Raises:
            SettingsValidationError: Something is missing or wrong, or the section is another's.
        """
        if cls.section is not None:
            source.claim(cls, cls.section)
        return source.load(cls, cls.section)


def bool_var(default: bool | None = None) -> Any:
    """Make an attrs field for a boolean, which may be written in words: yes, no, on, off, 1, 0.

    Args:
        default: Its default; None: it is required.
    """
    import attrs

    if default is None:
        return attrs.field(converter=_bool)
    return attrs.field(default=default, converter=_bool)


async def prepare() -> None:
    """Let `di` make every `Config` class from the `ConfigSource` in the context."""
    di.register(Config.adapt)


def _bool(value: object) -> bool:
    if isinstance(value, bool):
        return value
    found = _WORDS.get(str(value).strip().lower())
    if found is None:
        raise ValueError(f"a boolean is one of {', '.join(_WORDS)}")
    return found


def _merge(target: dict[str, Any], other: Mapping[str, Any]) -> None:
    for key, value in other.items():
        if not isinstance(value, Mapping):
            target[key] = value
            continue
        before = target.get(key)
        table = target[key] = dict(before) if isinstance(before, Mapping) else {}
        _merge(table, value)


def _path_of(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _line(fault: Mapping[str, Any], path: tuple[str, ...], overlay: Overlay, env: bool) -> str:
    """What is wrong with a field, and the way out; a secret's own messages may show it."""
    words = [*path, *map(str, fault["loc"])]
    name = ".".join(words) or "settings"
    variable = f" or the variable {overlay.name(*words)}" if env and words else ""
    if fault["type"] == "missing":
        return f"{name}: it is missing: set it in the configuration{variable}"
    text = str(fault["msg"]).removeprefix("Value error, ")
    own = fault["type"] in ("value_error", "assertion_error")
    if own and any(map(is_secret, words)):
        text = "its value cannot be used"
    return f"{name}: {text}: change it in the configuration{variable}"
