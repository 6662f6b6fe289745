"""How a cache's keys are told apart on a backend that it shares with other caches.

An unnamed cache keeps a key as it is. A named one puts `~name:` before it, with `~` and `:` in the
name written `~0` and `~1`. An unnamed key that begins with `~` gets the mark of the empty name,
`~:`, so that nothing a key contains makes it another cache's.
"""

import re
from collections.abc import Callable

__all__ = ["MARK", "MAX_KEY", "check_key", "key_prefix", "namer", "tag_prefix", "unnamed"]

MARK = "~"

MAX_KEY = 4096
"""Characters of the longest key."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def key_prefix(name: str | None) -> str:
    """What stands before the keys of the cache called `name`; nothing for an unnamed one."""
    return f"{MARK}{_escaped(name)}:" if name else ""


def tag_prefix(name: str | None) -> str:
    """What stands before the tags of a cache: a place where no key of any cache can be."""
    return f"{MARK}{_escaped(name or '')}{MARK}tag:"


def unnamed(key: str) -> str:
    """How an unnamed cache keeps `key`: as it is, unless that would look like another cache's."""
    return f"{MARK}:{key}" if key.startswith(MARK) else key


def namer(prefix: str) -> Callable[[str], str]:
    """Make the function from keys to what a cache with that prefix calls them on its backend.

    It raises what `check_key` does.
    """

    def full(key: str) -> str:
        plain = isinstance(key, str) and key.isascii() and key.isprintable()
        if not plain or len(key) > MAX_KEY:
            check_key(key)
        return prefix + key if prefix else unnamed(key) if key >= MARK else key

    return full


def check_key(key: object, what: str = "key") -> str:
    """Return `key` if it can be one, or a part of one; messages call it `what`.

    Raises:
        TypeError: It is no string.
        ValueError: It has control characters, is too long, or cannot be encoded.
    """
    if not isinstance(key, str):
        raise TypeError(f"{what}: expected a string, not {type(key).__name__}")
    if len(key) > MAX_KEY:
        raise ValueError(
            f"{what}: {len(key)} characters are too many, {MAX_KEY} is the most: hash long parts"
        )
    if _CONTROL.search(key):
        raise ValueError(
            f"{what}: control characters (NUL, newline, ...) are not allowed: quote them"
        )
    try:
        key.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{what}: a lone surrogate cannot be encoded as UTF-8") from None
    return key


def _escaped(name: str) -> str:
    return name.replace(MARK, "~0").replace(":", "~1")
