"""Where a provider's settings come from: keywords, then the environment, then defaults.

It imports nothing heavy by itself; a provider brings its own settings class.
"""

from collections.abc import Iterable, Mapping
from urllib.parse import SplitResult, quote, urlsplit, urlunsplit

__all__ = ["masked", "overlaid", "without_service_links"]

_MASK = "***"


def overlaid(
    url: str,
    *,
    host: str | None = None,
    port: object | None = None,
    path: str | None = None,
    username: str | None = None,
    password: str | None = None,
) -> str:
    """Put single fields over those of a URL; what is None stays as the URL has it.

    Raises:
        ValueError: The URL, or its port, cannot be read.
    """
    parts = urlsplit(url)
    user = parts.username if username is None else quote(username, safe="")
    secret = parts.password if password is None else quote(password, safe="")
    credentials = _credentials(user, secret)
    address = _address(parts, host, port)
    location = parts.path if path is None else path
    return urlunsplit(parts._replace(netloc=credentials + address, path=location))


def masked(url: str) -> str:
    """The URL for people to read: the password hidden, and the query, which may have others."""
    try:
        parts = urlsplit(url)
        credentials = _credentials(parts.username, _MASK if parts.password else None)
        address = _address(parts, None, None)
    except ValueError:
        return _MASK
    return f"{parts.scheme}://{credentials}{address}{parts.path}"


def without_service_links(values: Mapping[str, str], names: Iterable[str]) -> dict[str, str]:
    """Leave out what Kubernetes puts into the environment for a service of that name.

    It sets `REDIS_PORT=tcp://10.0.0.1:6379` for every service called `redis`: no port that anybody
    meant to give.
    """
    links = {name for name in names if values.get(name, "").startswith("tcp://")}
    return {name: value for name, value in values.items() if name not in links}


def _credentials(username: str | None, password: str | None) -> str:
    if password is not None:
        return f"{username or ''}:{password}@"
    return f"{username}@" if username else ""


def _address(parts: SplitResult, host: str | None, port: object | None) -> str:
    if host is None and port is None:  # there may be several, with commas between
        return parts.netloc.rpartition("@")[2]
    name = host if host is not None else parts.hostname or ""
    number = port if port is not None else parts.port
    bracketed = f"[{name}]" if ":" in name and not name.startswith("[") else name
    return f"{bracketed}:{number}" if number is not None else bracketed
