"""What a Postgres connection is configured with, and where that comes from."""

import re
from typing import Annotated, Any, ClassVar, Self
from urllib.parse import quote, urlsplit

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict

from grelmicro.errors import SettingsValidationError
from grelmicro.providers._postgres_urls import PORT, SCHEMES, Address
from grelmicro.providers._settings import masked, overlaid, without_service_links

__all__ = ["PostgresConfig", "PostgresProviderConfigError", "resolve"]

_DECOMPOSED = ("host", "port", "database", "user", "password")

_LIMITS = ("timeout", "max_connections", "statement_cache_size", "listen")

_VARIABLES = {"database": "DB"}
"""Variables that are not called like their field; `DATABASE` will do as well."""

_UNREADABLE = "it cannot be read as a URL: percent-encode what is special in the password"


class PostgresProviderConfigError(SettingsValidationError):
    """Settings of a `PostgresProvider` that cannot be used; no rejected value is shown."""


def _checked_url(url: object) -> str | None:
    if url is None:
        return None
    text = url.get_secret_value() if isinstance(url, SecretStr) else str(url)
    try:
        parts = urlsplit(text)
        scheme = parts.scheme.partition("+")[0]
        if scheme not in SCHEMES:
            fault: str | None = f"expected one of {', '.join(f'{name}://' for name in SCHEMES)}"
        else:
            fault = _UNREADABLE if parts.fragment else Address.of(text).fault
    except ValueError:
        raise ValueError(_UNREADABLE) from None
    if fault:
        raise ValueError(fault)
    return "postgresql:" + text.partition(":")[2]


class _Fields(BaseModel):
    model_config: ClassVar[ConfigDict] = ConfigDict(
        extra="forbid", frozen=True, hide_input_in_errors=True
    )

    url: Annotated[SecretStr | None, BeforeValidator(_checked_url)] = None
    host: str | None = Field(default=None, min_length=1)
    port: int = Field(default=PORT, ge=1, le=65535)
    database: str | None = Field(default=None, min_length=1)
    user: str | None = Field(default=None, min_length=1)
    password: SecretStr | None = None
    timeout: float = Field(default=5.0, gt=0, le=3600)
    max_connections: int = Field(default=10, ge=1)
    statement_cache_size: int = Field(default=100, ge=0)
    listen: bool = True

    @model_validator(mode="after")
    def _one_address(self) -> Self:
        decomposed = sorted(self.model_fields_set & set(_DECOMPOSED))
        given = [name for name in decomposed if getattr(self, name) is not None]
        if self.url is not None and given:
            raise ValueError(_exclusive("url", given))
        if self.url is None and self.host is None:
            raise ValueError("no server: give url or host")
        return self


class PostgresConfig(_Fields):
    """The settings of a `PostgresProvider` as one object; it never reads the environment.

    Attributes:
        url: `postgresql://user:password@host:5432/database` as a string or a pydantic DSN; several
            hosts have commas between. Or else:
        host: The server's name or address, or the folder of its socket.
        port: Its port.
        database: The database; by default the one named like the user.
        user: Who logs in; by default who runs this process.
        password: Shown nowhere.
        timeout: Seconds within which every operation ends, up to 3600.
        max_connections: Most connections of the pool; further operations wait for one.
        statement_cache_size: Most statements that stay prepared on a connection. 0 for PgBouncer in
            transaction mode, whose connections are of another session each time.
        listen: Whether to hear messages of other processes (LISTEN), over one connection of its
            own. False for PgBouncer in transaction mode, which swallows them.

    Raises:
        PostgresProviderConfigError: A field cannot be used, or `url` and another field are given.
    """

    def __init__(self, **fields: Any) -> None:
        try:
            super().__init__(**fields)
        except ValidationError as error:
            raise PostgresProviderConfigError(error) from None

    def full_url(self) -> str:
        """The whole address as one URL, password included."""
        if self.url is not None:
            return self.url.get_secret_value()
        assert self.host is not None
        secret = self.password.get_secret_value() if self.password else None
        return overlaid(
            "postgresql://",
            host=_in_url(self.host),
            port=self.port,
            path=_path(self.database) if self.database else None,
            username=self.user,
            password=secret,
        )

    @property
    def address(self) -> Address:
        """What the URL says, field by field."""
        return Address.of(self.full_url())

    def __repr__(self) -> str:
        return f"PostgresConfig({masked(self.full_url())!r}, timeout={self.timeout})"

    def __str__(self) -> str:
        return repr(self)


class _Environment(BaseSettings):
    """The variables as they are: what is wrong with one matters only if it is used."""

    model_config = SettingsConfigDict(env_ignore_empty=True, extra="ignore")

    url: str | None = None
    host: str | None = None
    port: str | None = None
    db: str | None = None
    database: str | None = None
    user: str | None = None
    username: str | None = None
    password: str | None = None


def resolve(given: dict[str, Any], *, env_prefix: str, env_load: bool) -> PostgresConfig:
    """Make the configuration of keywords, then environment, then defaults, field by field.

    A URL counts as the fields it has. One that was passed as a keyword is a whole address: only
    credentials are looked up, if it has none.

    Raises:
        PostgresProviderConfigError: Something cannot be used; the message names keyword or
            variable.
    """
    keywords = {name: value for name, value in given.items() if value is not None}
    found = _read(env_prefix) if env_load else {}
    variables = {
        name: env_prefix + _VARIABLES.get(name, name).upper() for name in ("url", *_DECOMPOSED)
    }
    if "url" in keywords:
        base = _checked(keywords, {})
        address = base.address
        return base if address.password else _over(base, _missing_login(address, found))
    if "url" in found:
        if both := [variables[name] for name in _DECOMPOSED if name in found]:
            raise PostgresProviderConfigError(_exclusive(variables["url"], both))
        base = _checked({**_only(keywords, *_LIMITS), **found}, variables)
        misfits = [*_only(keywords, "host", "port")]
        if misfits and len(base.address.places) > 1:
            raise PostgresProviderConfigError(_exclusive(variables["url"], misfits))
        fields = _checked({"host": "unused", **keywords}, {})
        return _over(base, {name: getattr(fields, name) for name in _only(keywords, *_DECOMPOSED)})
    if "host" not in keywords and "host" not in found:
        raise PostgresProviderConfigError(_nowhere(variables, env_load))
    names = {name: variable for name, variable in variables.items() if name not in keywords}
    return _checked({**found, **keywords}, names)


def _read(env_prefix: str) -> dict[str, str]:
    environment = _Environment(_env_prefix=env_prefix)  # type: ignore[call-arg]  # its own keyword
    values: dict[str, str] = environment.model_dump(exclude_none=True)
    for name, other in (("database", "db"), ("user", "username")):
        if value := values.pop(other, None):
            values.setdefault(name, value)
    return without_service_links(values, ["port"])


def _missing_login(address: Address, found: dict[str, Any]) -> dict[str, Any]:
    """What the environment adds to a URL without a password: its user's, or a whole login."""
    if address.user and found.get("user", address.user) != address.user:
        return {}
    return _only(found, "user", "password")


def _only(fields: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: fields[name] for name in names if name in fields}


def _checked(fields: dict[str, Any], variables: dict[str, str]) -> PostgresConfig:
    """Check fields; those in `variables` are called by these names in the error."""
    try:
        _Fields(**fields)
    except ValidationError as error:
        text = str(SettingsValidationError(error))
        for name, variable in variables.items():
            text = re.sub(rf"^{name}:", f"{variable}:", text, flags=re.MULTILINE)
        raise PostgresProviderConfigError(text) from None
    return PostgresConfig(**fields)


def _exclusive(url: str, others: list[str]) -> str:
    return f"{url} and {', '.join(others)} exclude each other: give one form"


def _nowhere(variables: dict[str, str], env_load: bool) -> str:
    looked = f", or set {variables['url']} or {variables['host']}" if env_load else ""
    return f"no server to connect to: pass url= or host={looked}"


def _over(config: PostgresConfig, fields: dict[str, Any]) -> PostgresConfig:
    """Put single fields over those of a configuration's URL."""
    if not fields:
        return config
    if isinstance(secret := fields.get("password"), SecretStr):
        fields["password"] = secret.get_secret_value()
    if host := fields.get("host"):
        fields["host"] = _in_url(host)
    if database := fields.pop("database", None):
        fields["path"] = _path(database)
    if "user" in fields:
        fields["username"] = fields.pop("user")
    return config.model_copy(update={"url": SecretStr(overlaid(config.full_url(), **fields))})


def _in_url(host: str) -> str:
    return quote(host, safe=":[]")


def _path(database: str) -> str:
    return "/" + quote(database, safe="")
