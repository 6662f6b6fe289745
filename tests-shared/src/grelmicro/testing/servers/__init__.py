"""Throwaway servers for tests: on a free port, and gone with the process that asked for them."""

from grelmicro.testing.servers._ladder import (
    Ladder,
    Rung,
    ServerStartError,
    ServerUnavailableError,
)
from grelmicro.testing.servers.redis import RedisServer, redis_server

__all__ = [
    "RedisServer",
    "redis_server",
    "Ladder",
    "Rung",
    "ServerStartError",
    "ServerUnavailableError",
]
