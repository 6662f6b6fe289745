"""What a Postgres connection is configured with, and where that comes from."""

from collections.abc import Mapping
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
from grelmicro.providers._setting_sources import SettingSources, exclusive, only
from grelmicro.providers._settings import masked, overlaid

__all__ = ["PostgresConfig", "PostgresProviderConfigError", "resolve"]

_DECOMPOSED = ("host", "port", "database", "user", "password")

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
            raise ValueError(exclusive("url", given))
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
    model_config = SettingsConfigDict(env_ignore_empty=True, extra="ignore")

    url: str | None = None
    host: str | None = None
    port: str | None = None
    db: str | None = None
    database: str | None = None
    user: str | None = None
    username: str | None = None
    password: str | None = None


class _Sources(SettingSources[PostgresConfig]):
    environment = _Environment
    fields = _Fields
    config = PostgresConfig
    error = PostgresProviderConfigError
    decomposed = _DECOMPOSED
    limits = ("timeout", "max_connections", "statement_cache_size", "listen")
    aliases: ClassVar[Mapping[str, str]] = {"database": "db", "user": "username"}
    variables: ClassVar[Mapping[str, str]] = {"database": "DB"}

    def missing_login(self, config: PostgresConfig, found: dict[str, Any]) -> dict[str, Any]:
        """What the environment adds to a URL without a password: its user's, or a whole login."""
        address = config.address
        others = address.user and found.get("user", address.user) != address.user
        return {} if address.password or others else only(found, "user", "password")

    def has_one_host(self, config: PostgresConfig) -> bool:
        """Whether it names no further servers."""
        return len(config.address.places) == 1

    def over(self, config: PostgresConfig, fields: dict[str, Any]) -> PostgresConfig:
        """Put single fields over those of a configuration's URL."""
        if isinstance(secret := fields.get("password"), SecretStr):
            fields["password"] = secret.get_secret_value()
        if host := fields.get("host"):
            fields["host"] = _in_url(host)
        if database := fields.pop("database", None):
            fields["path"] = _path(database)
        if "user" in fields:
            fields["username"] = fields.pop("user")
        return config.model_copy(update={"url": SecretStr(overlaid(config.full_url(), **fields))})


resolve = _Sources().resolve


def _in_url(host: str) -> str:
    return quote(host, safe=":[]")


def _path(database: str) -> str:
    return "/" + quote(database, safe="")
