"""What the URL of a Postgres says, field by field."""

import getpass
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

__all__ = ["PORT", "SCHEMES", "Address"]

SCHEMES = ("postgresql", "postgres")
PORT = 5432

_SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")


@dataclass(frozen=True)
class Address:
    """Where a Postgres is, and how to log in.

    Attributes:
        places: Host and port of each server; a host that begins with a slash is the folder of a
            socket.
        user: Who logs in; None stands for who runs this process.
        password: Shown nowhere.
        database: The database; None stands for the one named like the user.
        options: What else stands after `?`.
    """

    places: tuple[tuple[str, int], ...]
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    database: str | None = None
    options: tuple[tuple[str, str], ...] = field(default=(), repr=False)

    @classmethod
    def of(cls, url: str) -> Self:
        """Read a URL, of whatever scheme.

        Raises:
            ValueError: It cannot be read; the text may quote it.
        """
        parts = urlsplit(url)
        options = dict(parse_qsl(parts.query, strict_parsing=bool(parts.query)))
        said = {name: options.pop(name, None) for name in ("host", "port", "user", "password")}
        database = options.pop("dbname", None) or options.pop("database", None)
        if "ssl" in options:  # what SQLAlchemy calls it
            options.setdefault("sslmode", options.pop("ssl"))
        hosts = parts.netloc.rpartition("@")[2] or said["host"] or ""
        port = _port(said["port"]) if said["port"] else PORT
        return cls(
            tuple(_place(host, port) for host in hosts.split(",")) if hosts else (),
            user=unquote(parts.username) if parts.username else said["user"],
            password=unquote(parts.password) if parts.password else said["password"],
            database=unquote(parts.path[1:]) or database,
            options=tuple(options.items()),
        )

    @property
    def fault(self) -> str | None:
        """What keeps it from being one; no value of a secret is shown."""
        if not self.places or not all(host for host, _ in self.places):
            return "it names no host: postgresql://user@host:5432/database"
        mode = dict(self.options).get("sslmode", _SSL_MODES[0])
        return None if mode in _SSL_MODES else f"sslmode is one of {', '.join(_SSL_MODES)}"

    def keywords(self) -> dict[str, Any]:
        """What `asyncpg.connect` takes, whole: what is left out it takes from the environment."""
        user = self.user or getpass.getuser()
        hosts, ports = zip(*self.places, strict=True)
        given: dict[str, Any] = {
            "dsn": f"postgresql://?{urlencode(self.options)}" if self.options else None,
            "host": list(hosts),
            "port": list(ports),
            "user": user,
            "password": self.password or "",
            "database": self.database or user,
        }
        return given if "sslmode" in dict(self.options) else {**given, "ssl": "prefer"}


def _place(text: str, port: int) -> tuple[str, int]:
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        if rest and not rest.startswith(":"):
            raise ValueError("something between an address and its port")
        return host, _port(rest[1:]) if rest else port
    host, colon, number = text.partition(":")
    return unquote(host), _port(number) if colon else port


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 65535):
        raise ValueError("a port is a number from 1 to 65535")
    return int(text)
