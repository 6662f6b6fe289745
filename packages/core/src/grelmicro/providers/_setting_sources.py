"""One provider's settings, put together of keywords, the environment and defaults."""

import re
from collections.abc import Mapping
from typing import Any, ClassVar, Generic, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_settings import BaseSettings

from grelmicro.errors import SettingsValidationError
from grelmicro.providers._settings import without_service_links

__all__ = ["SettingSources", "exclusive", "only"]

C = TypeVar("C", bound=BaseModel)


class SettingSources(Generic[C]):
    """Where the settings of one kind of provider come from; a subclass says what is its own."""

    environment: ClassVar[type[BaseSettings]]
    """The variables as they are: what is wrong with one matters only if it is used."""
    fields: ClassVar[type[BaseModel]]
    """What checks fields, and raises pydantic's own error."""
    config: type[C]
    """What is made of checked fields."""
    error: ClassVar[type[SettingsValidationError]]
    decomposed: ClassVar[tuple[str, ...]]
    """The fields of an address; a URL excludes them."""
    limits: ClassVar[tuple[str, ...]]
    """The fields that may stand beside a URL."""
    aliases: ClassVar[Mapping[str, str]] = {}
    """Variables with a second name, for which the field's own counts first."""
    variables: ClassVar[Mapping[str, str]] = {}
    """What variables are called in messages that are not called like their field."""

    def missing_login(self, config: C, found: dict[str, Any]) -> dict[str, Any]:
        """What the environment adds to a URL that was passed; nothing if it has credentials."""
        raise NotImplementedError

    def has_one_host(self, config: C) -> bool:
        """Whether a URL's host and port may be replaced by others."""
        raise NotImplementedError

    def over(self, config: C, fields: dict[str, Any]) -> C:
        """Put single fields, at least one, over those of a configuration's URL."""
        raise NotImplementedError

    def resolve(self, given: dict[str, Any], *, env_prefix: str, env_load: bool) -> C:
        """Make the configuration of keywords, then environment, then defaults, field by field.

        A URL counts as the fields it has. One that was passed as a keyword is a whole address: only
        credentials are looked up, if it has none.

        Raises:
            SettingsValidationError: Something cannot be used; the message names keyword or
                variable.
        """
        keywords = {name: value for name, value in given.items() if value is not None}
        found = self._read(env_prefix) if env_load else {}
        names = {
            name: env_prefix + self.variables.get(name, name).upper()
            for name in ("url", *self.decomposed)
        }
        if "url" in keywords:
            base = self._checked(keywords, {})
            return self._over(base, self.missing_login(base, found))
        if "url" in found:
            return self._over_a_found_url(keywords, found, names)
        if "host" not in keywords and "host" not in found:
            looked = f", or set {names['url']} or {names['host']}" if env_load else ""
            raise self.error(f"no server to connect to: pass url= or host={looked}")
        found_names = {name: text for name, text in names.items() if name not in keywords}
        return self._checked({**found, **keywords}, found_names)

    def _over_a_found_url(
        self, keywords: dict[str, Any], found: dict[str, Any], names: dict[str, str]
    ) -> C:
        if both := [names[name] for name in self.decomposed if name in found]:
            raise self.error(exclusive(names["url"], both))
        base = self._checked({**only(keywords, *self.limits), **found}, names)
        misfits = [*only(keywords, "host", "port")]
        if misfits and not self.has_one_host(base):
            raise self.error(exclusive(names["url"], misfits))
        checked = self._checked({"host": "unused", **keywords}, {})
        given = only(keywords, *self.decomposed)
        return self._over(base, {name: getattr(checked, name) for name in given})

    def _over(self, config: C, fields: dict[str, Any]) -> C:
        return self.over(config, fields) if fields else config

    def _read(self, env_prefix: str) -> dict[str, str]:
        environment = self.environment(_env_prefix=env_prefix)
        values: dict[str, str] = environment.model_dump(exclude_none=True)
        for name, other in self.aliases.items():
            if value := values.pop(other, None):
                values.setdefault(name, value)
        return without_service_links(values, ["port"])

    def _checked(self, fields: dict[str, Any], names: dict[str, str]) -> C:
        """Check fields; those in `names` are called by these names in the error."""
        try:
            self.fields(**fields)
        except ValidationError as error:
            text = str(SettingsValidationError(error))
            for name, variable in names.items():
                text = re.sub(rf"^{name}:", f"{variable}:", text, flags=re.MULTILINE)
            raise self.error(text) from None
        return self.config(**fields)


def exclusive(url: str, others: list[str]) -> str:
    """What is wrong when a URL and others of these settings are given."""
    return f"{url} and {', '.join(others)} exclude each other: give one form"


def only(fields: dict[str, Any], *names: str) -> dict[str, Any]:
    """The fields of these names that there are."""
    return {name: fields[name] for name in names if name in fields}
