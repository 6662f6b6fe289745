"""References of sockets, and listening where they say."""

import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from grelmicro.service._sockets import Listeners, listen, parse, uri


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "x.sock"


@pytest.fixture
def opened() -> Iterator[list[Listeners]]:
    """What is closed at the end."""
    found: list[Listeners] = []
    yield found
    for each in found:
        each.close()
        each.unlink()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("tcp://:80", "tcp://0.0.0.0:80"),
        ("tcp://Example.org:80", "tcp://example.org:080"),
        ("unix:///run/x", "unix:///run/./y/../x"),
    ],
)
def test_references_that_mean_the_same(one: str, other: str) -> None:
    assert parse(one) == parse(other)


def test_an_ipv6_reference() -> None:
    assert parse("tcp://[::1]:80") == (socket.AF_INET6, "::1", 80)


@pytest.mark.parametrize(
    "reference",
    [
        *("", "tcp", "tcp://", "tcp://host", "tcp://host:port", "tcp://:99999", "tcp://::1:80"),
        *("tcp://:80/path", "tcp://user@host:80", "http://:80", "unix://", "unix://\0x", ":80"),
    ],
)
def test_what_is_no_reference_is_told_before_anything_is_opened(path: Path, reference: str) -> None:
    with pytest.raises(ValueError, match=r"use tcp://host:port"):
        listen([f"unix://{path}", reference])
    assert not path.exists()


def test_a_port_that_is_taken_is_told_by_its_reference(path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        place = uri(taken)
        with pytest.raises(OSError, match=f"the socket '{place}': Address already in use"):
            listen([f"unix://{path}", place])
    assert os.listdir(path.parent) == []  # what was opened before was closed


def test_a_stale_file_is_replaced(path: Path, opened: list[Listeners]) -> None:
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
        stale.listen()
    opened.append(listen([f"unix://{path}"]))
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    assert opened[0].addresses() == [f"unix://{path}"]


@pytest.mark.parametrize("backlog", [5, 0])
def test_where_somebody_listens_nothing_is_replaced(path: Path, backlog: int) -> None:
    with socket.socket(socket.AF_UNIX) as other, socket.socket(socket.AF_UNIX) as waiting:
        other.bind(str(path))
        other.listen(backlog)
        waiting.connect(str(path))  # with 0, the queue is full now
        before = path.stat().st_ino
        with pytest.raises(OSError, match=f"unix://{path}': another process listens there"):
            listen([f"unix://{path}"])
        assert path.stat().st_ino == before


def test_a_file_that_is_no_socket_is_left_alone(path: Path) -> None:
    path.write_text("precious")
    with pytest.raises(FileExistsError, match="a file that is no socket"):
        listen([f"unix://{path}"])
    assert path.read_text() == "precious"


def test_no_folder_and_a_path_that_is_too_long(path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="the socket 'unix:///nowhere/at/all'"):
        listen(["unix:///nowhere/at/all"])
    folder = path.parent / ("x" * 100)
    folder.mkdir()
    with pytest.raises(OSError, match="too long"):
        listen([f"unix://{folder}/x.sock"])


def test_a_file_of_somebody_else_is_not_removed(path: Path) -> None:
    ours = listen([f"unix://{path}"])
    ours.close()
    theirs = listen([f"unix://{path}"])
    ours.unlink()
    assert stat.S_ISSOCK(path.stat().st_mode)
    theirs.close()
    theirs.unlink()
    assert not path.exists()
    theirs.unlink()


def test_both_versions_of_ip_at_one_port(opened: list[Listeners]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    opened.append(listen([f"tcp://127.0.0.1:{port}", f"tcp://[::1]:{port}"]))
    assert opened[0].addresses() == [f"tcp://127.0.0.1:{port}", f"tcp://[::1]:{port}"]
