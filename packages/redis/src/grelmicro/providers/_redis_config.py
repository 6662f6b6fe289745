"""What a Redis connection is configured with, and where that comes from."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Self
from urllib.parse import SplitResult, parse_qsl, urlencode, urlsplit, urlunsplit

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
from redis.asyncio.connection import Connection

from grelmicro.errors import SettingsValidationError
from grelmicro.providers._redis_urls import SCHEMES, Topology
from grelmicro.providers._setting_sources import SettingSources, exclusive, only
from grelmicro.providers._settings import masked, overlaid

__all__ = ["RedisConfig", "RedisProviderConfigError", "resolve"]

_DECOMPOSED = ("host", "port", "db", "username", "password")

_FORMS = {
    "": ("redis://host:6379/0", r"/?\d*"),
    "sentinel": ("redis+sentinel://host1:26379,host2:26379/service/0", r"/[^/]+(/\d*)?"),
    "cluster": ("redis+cluster://host1:6379,host2:6379", r"/?0?"),
}
"""What a URL with one of these ways looks like, and the pattern of its path."""

_POOL_OPTIONS = {"max_connections", "timeout"}

_UNREADABLE = "it cannot be read as a URL: percent-encode what is special in the password"


class RedisProviderConfigError(SettingsValidationError):
    """Settings of a `RedisProvider` that cannot be used; no rejected value is shown."""


def _checked_url(url: object) -> str | None:
    if url is None:
        return None
    text = url.get_secret_value() if isinstance(url, SecretStr) else str(url)
    try:
        parts = urlsplit(text)
        _ = parts.port if "+" not in parts.scheme else None
    except ValueError:
        raise ValueError(_UNREADABLE) from None
    if fault := _fault_of(parts) or _fault_of_options(text, parts):
        raise ValueError(fault)
    return text


def _fault_of(parts: SplitResult) -> str | None:
    """What keeps a URL from being a Redis server's; the URL itself is not shown."""
    if parts.scheme not in SCHEMES:
        return f"expected one of {', '.join(f'{scheme}://' for scheme in SCHEMES)}"
    if parts.scheme == "unix":
        return None if parts.path else "it names no socket: unix:///path/to/redis.sock"
    way = parts.scheme.partition("+")[2]
    form, path = _FORMS[way]
    if not all(parts.netloc.rpartition("@")[2].split(",")) or not parts.hostname:
        return f"it names no host: {form}"
    if not re.fullmatch(path, parts.path):
        return f"its path cannot be used: {form}"
    return None


def _fault_of_options(url: str, parts: SplitResult) -> str | None:
    """What keeps the options after `?` from being a connection's; no value is shown."""
    if parts.fragment:
        return _UNREADABLE
    try:
        parse_qsl(parts.query, strict_parsing=bool(parts.query))
        options = dict(Topology.of(url).options)
        connection = options.pop("connection_class", Connection)
        connection(**{name: options[name] for name in options.keys() - _POOL_OPTIONS})
    except Exception:  # of whatever kind: redis-py has many for its many options
        return "it has an option that is unknown or cannot be read"
    return None


class _Fields(BaseModel):
    model_config: ClassVar[ConfigDict] = ConfigDict(
        extra="forbid", frozen=True, hide_input_in_errors=True
    )

    url: Annotated[SecretStr | None, BeforeValidator(_checked_url)] = None
    host: str | None = Field(default=None, min_length=1)
    port: int = Field(default=6379, ge=1, le=65535)
    db: int = Field(default=0, ge=0)
    username: str | None = None
    password: SecretStr | None = None
    timeout: float = Field(default=5.0, gt=0, le=3600)
    max_connections: int = Field(default=64, ge=1)
    multiplex: bool = True
    connections: int = Field(default=2, ge=1, le=64)

    @model_validator(mode="after")
    def _one_address(self) -> Self:
        decomposed = sorted(self.model_fields_set & set(_DECOMPOSED))
        given = [name for name in decomposed if getattr(self, name) is not None]
        if self.url is not None and given:
            raise ValueError(exclusive("url", given))
        if self.url is None and self.host is None:
            raise ValueError("no server: give url or host")
        return self


class RedisConfig(_Fields):
    """The settings of a `RedisProvider` as one object; it never reads the environment.

    Attributes:
        url: `redis://`, `rediss://` (TLS), `unix://`, `redis+sentinel://host1,host2/service/db` or
            `redis+cluster://host1,host2`, as a string or a pydantic DSN; or else:
        host: The server's name or address.
        port: Its port.
        db: The number of the database.
        username: For servers with access control lists.
        password: Shown nowhere.
        timeout: Seconds within which every operation ends, up to 3600.
        max_connections: Most connections of the native client; further commands wait for one.
        multiplex: Whether commands share connections of our own, or go through the native client.
        connections: Most of these shared connections to one server, up to 64.

    Raises:
        RedisProviderConfigError: A field cannot be used, or `url` and another field are given.
    """

    def __init__(self, **fields: Any) -> None:
        try:
            super().__init__(**fields)
        except ValidationError as error:
            raise RedisProviderConfigError(error) from None

    def full_url(self) -> str:
        """The whole address as one URL, password included."""
        if self.url is not None:
            return self.url.get_secret_value()
        secret = self.password.get_secret_value() if self.password else None
        return overlaid(
            "redis://",
            host=self.host,
            port=self.port,
            path=f"/{self.db}",
            username=self.username,
            password=secret,
        )

    @property
    def topology(self) -> Topology:
        """What the URL says, field by field."""
        return Topology.of(self.full_url())

    @property
    def shortest_timeout(self) -> float:
        """Seconds that a command may take: `timeout`, or less if the URL says so."""
        return min(self.timeout, self.topology.options.get("socket_timeout") or self.timeout)

    def __repr__(self) -> str:
        return f"RedisConfig({masked(self.full_url())!r}, timeout={self.timeout})"

    def __str__(self) -> str:
        return repr(self)


class _Environment(BaseSettings):
    model_config = SettingsConfigDict(env_ignore_empty=True, extra="ignore")

    url: str | None = None
    host: str | None = None
    port: str | None = None
    db: str | None = None
    user: str | None = None
    username: str | None = None
    password: str | None = None


class _Sources(SettingSources[RedisConfig]):
    environment = _Environment
    fields = _Fields
    config = RedisConfig
    error = RedisProviderConfigError
    decomposed = _DECOMPOSED
    limits = ("timeout", "max_connections", "multiplex", "connections")
    aliases: ClassVar[Mapping[str, str]] = {"username": "user"}

    def missing_login(self, config: RedisConfig, found: dict[str, Any]) -> dict[str, Any]:
        """What the environment adds to a URL that has neither a name nor a password."""
        options = config.topology.options
        has_login = options.get("username") or options.get("password")
        return {} if has_login else only(found, "username", "password")

    def has_one_host(self, config: RedisConfig) -> bool:
        """Whether it is a single server, and none behind a socket."""
        return config.topology.kind == "single" and bool(config.topology.places)

    def over(self, config: RedisConfig, fields: dict[str, Any]) -> RedisConfig:
        """Put single fields over those of a configuration's URL."""
        url, db = config.full_url(), fields.pop("db", None)
        if db is not None:
            url = _with_db(url, db, config.topology)
        if isinstance(secret := fields.get("password"), SecretStr):
            fields["password"] = secret.get_secret_value()
        return config.model_copy(update={"url": SecretStr(overlaid(url, **fields))})


resolve = _Sources().resolve


def _with_db(url: str, db: int, topology: Topology) -> str:
    parts = urlsplit(url)
    if topology.kind == "cluster":
        if db:
            raise RedisProviderConfigError("db: a cluster has database 0 only")
        return url
    query = [item for item in parse_qsl(parts.query) if item[0] != "db"]
    if parts.scheme == "unix":
        return f"unix://{parts.netloc}{parts.path}?{urlencode([*query, ('db', db)])}"
    service = "/" + parts.path.split("/")[1] if topology.service else ""
    return urlunsplit(parts._replace(path=f"{service}/{db}", query=urlencode(query)))
