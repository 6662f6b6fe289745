"""What a Redis connection is configured with, and where that comes from."""

import re
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
from grelmicro.providers._settings import masked, overlaid, without_service_links

__all__ = ["RedisConfig", "RedisProviderConfigError", "resolve"]

_DECOMPOSED = ("host", "port", "db", "username", "password")

_LIMITS = ("timeout", "max_connections", "multiplex", "connections")

_FORMS = {
    "": ("redis://host:6379/0", r"/?\d*"),
    "sentinel": ("redis+sentinel://host1:26379,host2:26379/service/0", r"/[^/]+(/\d*)?"),
    "cluster": ("redis+cluster://host1:6379,host2:6379", r"/?0?"),
}
"""What a URL with one of these ways looks like, and the pattern of its path."""

_SETTINGS = ("url", *_DECOMPOSED)

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
            raise ValueError(_exclusive("url", given))
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
    """The variables as they are: what is wrong with one matters only if it is used."""

    model_config = SettingsConfigDict(env_ignore_empty=True, extra="ignore")

    url: str | None = None
    host: str | None = None
    port: str | None = None
    db: str | None = None
    user: str | None = None
    username: str | None = None
    password: str | None = None


def resolve(given: dict[str, Any], *, env_prefix: str, env_load: bool) -> RedisConfig:
    """Make the configuration of keywords, then environment, then defaults, field by field.

    A URL counts as the fields it has. One that was passed as a keyword is a whole address: only
    credentials are looked up, if it has none.

    Raises:
        RedisProviderConfigError: Something cannot be used; the message names keyword or variable.
    """
    keywords = {name: value for name, value in given.items() if value is not None}
    found = _read(env_prefix) if env_load else {}
    variables = {name: f"{env_prefix}{name.upper()}" for name in _SETTINGS}
    if "url" in keywords:
        base = _checked(keywords, {})
        found = {} if _has_credentials(base) else _only(found, "username", "password")
        return _over(base, found)
    if "url" in found:
        if both := [variables[name] for name in _DECOMPOSED if name in found]:
            raise RedisProviderConfigError(_exclusive(variables["url"], both))
        base = _checked({**_only(keywords, *_LIMITS), **found}, variables)
        has_one_host = base.topology.kind == "single" and base.topology.places
        if not has_one_host and (misfits := [*_only(keywords, "host", "port")]):
            raise RedisProviderConfigError(_exclusive(variables["url"], misfits))
        fields = _checked({"host": "unused", **keywords}, {})
        return _over(base, {name: getattr(fields, name) for name in _only(keywords, *_DECOMPOSED)})
    if "host" not in keywords and "host" not in found:
        raise RedisProviderConfigError(_nowhere(variables, env_load))
    names = {name: variable for name, variable in variables.items() if name not in keywords}
    return _checked({**found, **keywords}, names)


def _read(env_prefix: str) -> dict[str, str]:
    environment = _Environment(_env_prefix=env_prefix)  # type: ignore[call-arg]  # its own keyword
    values: dict[str, str] = environment.model_dump(exclude_none=True)
    if user := values.pop("user", None):
        values.setdefault("username", user)
    return without_service_links(values, ["port"])


def _only(fields: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: fields[name] for name in names if name in fields}


def _checked(fields: dict[str, Any], variables: dict[str, str]) -> RedisConfig:
    """Check fields; those in `variables` are called by these names in the error."""
    try:
        _Fields(**fields)
    except ValidationError as error:
        text = str(SettingsValidationError(error))
        for name, variable in variables.items():
            text = re.sub(rf"^{name}:", f"{variable}:", text, flags=re.MULTILINE)
        raise RedisProviderConfigError(text) from None
    return RedisConfig(**fields)


def _exclusive(url: str, others: list[str]) -> str:
    return f"{url} and {', '.join(others)} exclude each other: give one form"


def _nowhere(variables: dict[str, str], env_load: bool) -> str:
    looked = f", or set {variables['url']} or {variables['host']}" if env_load else ""
    return f"no server to connect to: pass url= or host={looked}"


def _has_credentials(config: RedisConfig) -> bool:
    options = config.topology.options
    return bool(options.get("username") or options.get("password"))


def _over(config: RedisConfig, fields: dict[str, Any]) -> RedisConfig:
    """Put single fields over those of a configuration's URL."""
    if not fields:
        return config
    url, db = config.full_url(), fields.pop("db", None)
    if db is not None:
        url = _with_db(url, db, config.topology)
    if isinstance(secret := fields.get("password"), SecretStr):
        fields["password"] = secret.get_secret_value()
    return config.model_copy(update={"url": SecretStr(overlaid(url, **fields))})


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
