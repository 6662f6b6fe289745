"""Lua scripts that a server keeps after the first use."""

from hashlib import sha1

__all__ = ["RedisScript"]


class RedisScript:
    """A Lua script for `RedisProvider.run`.

    Args:
        source: What the server is to run, in one step; all its keys have to come as KEYS.
    """

    def __init__(self, source: str) -> None:
        self.source: str = source
        self.sha: str = sha1(source.encode(), usedforsecurity=False).hexdigest()

    def __repr__(self) -> str:
        return f"RedisScript({self.sha})"
