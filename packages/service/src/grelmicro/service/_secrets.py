"""Which names tell that a value is not to be shown, and what stands in its place."""

import re
from collections.abc import Mapping
from typing import Any

__all__ = ["is_secret", "masked"]

_SECRET = re.compile(
    r"pass(wd|word|phrase|code)?($|_)|secret|token|credential|(api|private|access|signing)_?key"
    r"|(^|_)(key|auth|pwd|pin|dsn)($|_)",
    re.IGNORECASE,
)
_USERINFO = re.compile(r"://[^/@\s]*@")


def is_secret(name: str) -> bool:
    """Whether the value of a field with this name is one."""
    return _SECRET.search(name.replace("-", "_")) is not None


def masked(value: Any, name: str = "") -> Any:
    """A value in which secrets are stars; the user information of URLs is one."""
    if isinstance(value, Mapping):
        return {key: masked(each, str(key)) for key, each in value.items()}
    if is_secret(name):
        return "***"
    if isinstance(value, list | tuple):
        return [masked(each) for each in value]
    return _USERINFO.sub("://***@", value) if isinstance(value, str) else value
