"""Throwaway servers for tests: on a free port, and gone with the process that asked for them."""

from grelmicro.testing.servers._ladder import (
    Ladder,
    Rung,
    ServerStartError,
    ServerUnavailableError,
)
from grelmicro.testing.servers.cluster import RedisCluster, redis_cluster
from grelmicro.testing.servers.postgres import PostgresServer, postgres_server
from grelmicro.testing.servers.redis import RedisServer, redis_server
from grelmicro.testing.servers.sentinel import RedisSentinel, redis_sentinel

__all__ = [
    "RedisServer",
    "redis_server",
    "RedisCluster",
    "redis_cluster",
    "RedisSentinel",
    "redis_sentinel",
    "PostgresServer",
    "postgres_server",
    "Ladder",
    "Rung",
    "ServerStartError",
    "ServerUnavailableError",
]
