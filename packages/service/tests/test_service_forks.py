"""Forked workers and their parent: real processes, sockets and signals."""

import asyncio
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from grelmicro.service import fork

TWO = "fork.stage(serving, forks=2, sockets=['tcp://127.0.0.1:0'])"


def test_workers_share_all_kinds_of_sockets(start: Any, ask: Any, tmp_path: Path) -> None:
    path = tmp_path / "x.sock"
    sockets = f"['tcp://127.0.0.1:0', 'tcp://[::1]:0', 'unix://{path}']"
    for _ in range(2):  # the path can be bound again
        program = start(f"fork.stage(serving, forks=2, sockets={sockets})")
        program.until("all workers are ready")
        workers = set(map(str, program.running()))
        assert len(workers) == 2
        v4, v6 = program.ports()
        answers = {ask(place) for place in (v4, ("::1", v6), path) for _ in range(10)}
        assert answers <= workers
        assert program.ended(signal.SIGTERM) == 0
        assert len(program.events("exited with 0")) == 2
        assert not path.exists()
        assert [*tmp_path.glob(".*")] == []


def test_sockets_are_components_by_their_references(start: Any) -> None:
    source = """
async def prepare(cancel: plugin.Cancel):
    first, same, other, *_ = [context.get(socket.socket, name=each) for each in SOCKETS]
    assert first is same is context.get(SOCKETS[0]) and first is not other
    assert context.get(socket.socket, default=None) is None
    assert first.getsockname()[1] == int(SOCKETS[0].split(":")[2])
    say("seen")
    cancel.set()

free = socket.create_server(("", 0))
port = free.getsockname()[1]
free.close()
SOCKETS = [f"tcp://:{port}", f"tcp://0.0.0.0:{port}", f"tcp://[::]:{port}", f"tcp://:{port}"]
fork.stage(prepare, forks=1, sockets=SOCKETS)
"""
    program = start(source)
    assert program.ended() == 0
    assert program.events("seen")
    assert len(program.ports()) == 2


def test_no_forks_is_one_for_each_cpu_and_workers_may_be_done(start: Any) -> None:
    source = """
async def prepare():
    yield asyncio.sleep(0)

os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
fork.stage(prepare)
"""
    program = start(source)
    assert program.ended() == 0
    assert len(program.events("is started")) == len(program.events("exited with 0")) == 1


def test_a_crashed_worker_is_replaced(start: Any, ask: Any) -> None:
    program = start(TWO)
    program.until("all workers are ready")
    (port,) = program.ports()
    victims = program.running()
    os.kill(victims[0], signal.SIGKILL)
    program.until("was ended by SIGKILL")
    program.until("is started", 3)
    os.kill(victims[1], signal.SIGKILL)  # so that it is the new ones who answer
    assert int(ask(port)) in program.started()[2:]
    program.until("was ended by SIGKILL", 2)
    program.until("is started", 4)
    assert program.ended(signal.SIGTERM) == 0


def test_workers_that_keep_crashing_stop_the_parent(start: Any) -> None:
    source = """
async def crash():
    await asyncio.sleep(0.05)
    raise LookupError("no luck")

async def prepare():
    yield crash()

fork.stage(prepare, serving, forks=1)
"""
    program = start(source)
    assert program.ended() == 1
    assert len(program.events("is replaced in")) == 5
    assert program.events("worker 1 keeps crashing")
    assert "WorkersError" in program.log.read_text()


def test_a_worker_that_does_not_start_stops_all(start: Any) -> None:
    source = """
async def prepare():
    try:
        open("first", "x").close()
    except FileExistsError:
        return
    await asyncio.sleep(0.5)
    raise LookupError("no luck")

fork.stage(serving, prepare, forks=3)
"""
    program = start(source)
    assert program.ended() == 1
    assert len(program.events("is started")) == 3
    assert len(program.events("exited with 1 before it was ready")) == 1
    assert len(program.events("exited with 0")) == 2
    assert program.log.read_text().count("LookupError: no luck") == 1


@pytest.mark.parametrize("hang", ["await asyncio.Future()", "time.sleep(600)"])
def test_a_worker_that_hangs_at_its_start(start: Any, hang: str) -> None:
    source = f"""
async def hanging():
    {hang}

fork.stage(hanging, forks=1, startup_timeout=0.2)
"""
    program = start(source)
    assert program.ended() == 1
    if "Future" in hang:
        assert program.events("the plugin '__main__:hanging' had not been prepared")
    else:
        assert program.events("it took too long")
        assert program.events("was ended by SIGKILL before it was ready")


def test_who_does_not_stop_is_killed(start: Any) -> None:
    source = """
async def deaf():
    say("deaf")
    time.sleep(600)

async def prepare():
    yield deaf()

fork.stage(prepare, forks=2, grace=0.5)
"""
    program = start(source)
    program.until("deaf", 2)
    assert program.ended(signal.SIGTERM) == 1
    assert len(program.events("was ended by SIGKILL when it was to stop")) == 2


SLOW = """
async def slow(cancel):
    await cancel.wait()
    say("finishing")
    await asyncio.sleep({seconds})
    say("finished")

async def prepare(cancel: plugin.Cancel):
    yield slow(cancel)

fork.stage(prepare, forks=2, grace=500)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_does_not_wait(start: Any, number: signal.Signals) -> None:
    program = start(SLOW.format(seconds=400))
    program.until("all workers are ready")
    program.send(number)
    program.until("finishing", 2)
    assert program.ended(number) == 0
    assert not program.events("finished")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_whole_group_counts_once(start: Any, number: signal.Signals) -> None:
    program = start(SLOW.format(seconds=1))
    program.until("all workers are ready")
    os.killpg(program.process.pid, number)
    assert program.ended() == 0
    assert len(program.events("finished")) >= 2


MODULE = """
import asyncio, os
from grelmicro.service import plugin

async def tell(cancel):
    os.write(2, b"version {version}\\n")
    await cancel.wait()

async def prepare(cancel: plugin.Cancel):
    {first}
    yield tell(cancel)
"""


def test_hup_replaces_one_by_one_with_new_code(start: Any, tmp_path: Path) -> None:
    module = tmp_path / "versioned.py"
    module.write_text(MODULE.format(version=1, first=""))
    program = start(
        "fork.stage('versioned', serving, forks=2)", env={"PYTHONDONTWRITEBYTECODE": "1"}
    )
    program.until("all workers are ready")
    before = program.running()

    module.write_text(MODULE.format(version=2, first=""))
    program.send(signal.SIGHUP)
    program.until("version 2", 2)
    program.until("exited with 0", 2)
    story = [x for x in program.events("worker ") if "is started" in x or "exited" in x][2:]
    assert ["started" in line for line in story] == [True, False, True, False]
    assert set(program.running()).isdisjoint(before)

    module.write_text(MODULE.format(version=3, first="raise LookupError('no luck')"))
    now = program.running()
    program.send(signal.SIGHUP)
    program.until("no more workers are replaced")
    assert program.running() == now
    assert program.ended(signal.SIGTERM) == 0
    assert len(program.started()) == 5


def test_a_worker_that_is_sent_away_is_replaced_before_it_is_gone(start: Any) -> None:
    program = start(SLOW.format(seconds=0.5))
    program.until("all workers are ready")
    os.kill(program.running()[0], signal.SIGTERM)
    program.until("is started", 3)
    assert not program.events("exited")
    program.until("exited with 0", 1)
    assert len(program.running()) == 2
    assert program.ended(signal.SIGTERM) == 0


def test_workers_stop_when_their_parent_is_gone(start: Any) -> None:
    program = start(SLOW.format(seconds=0))
    program.until("all workers are ready")
    program.send(signal.SIGKILL)
    assert program.process.wait() == -signal.SIGKILL
    program.wait_for(lambda: not program.is_left(), "the end of all")
    assert len(program.events("the parent is gone")) == 2
    assert len(program.events("finished")) == 2


def test_usr_signals_are_forwarded_and_hup_is_not(start: Any) -> None:
    source = """
class Own(plugin.Signals):
    def handle_usr1(self):
        say("usr1")

    def handle_hup(self):
        say("hup")

async def prepare():
    context.add(Own())

fork.stage(prepare, serving, forks=2)
"""
    program = start(source)
    program.until("all workers are ready")
    program.send(signal.SIGUSR2)  # nobody handles it, and nobody dies of it
    program.send(signal.SIGUSR1)
    program.until("usr1", 2)
    program.send(signal.SIGHUP)
    program.until("exited with 0", 2)
    assert not program.events("hup")
    assert program.ended(signal.SIGTERM) == 0


AS_SYSTEMD = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.argv[2], sys.argv[2:])
"""


def test_systemd_gives_sockets_and_is_told(start: Any, ask: Any, tmp_path: Path) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as given,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard,
    ):
        heard.bind(str(tmp_path / "notify"))
        heard.settimeout(30)
        port = given.getsockname()[1]
        program = start(
            f"fork.stage(serving, forks=2, sockets=['tcp://127.0.0.1:{port}'])",
            env={"LISTEN_FDS": "1", "NOTIFY_SOCKET": str(tmp_path / "notify")},
            pass_fds=[given.fileno()],
            prefix=[sys.executable, "-c", AS_SYSTEMD, str(given.fileno())],
        )
        program.until("all workers are ready")
        assert heard.recv(100) == b"READY=1"
        assert program.ports() == [port]
        assert int(ask(port)) in program.running()
        assert program.ended(signal.SIGTERM) == 0
        assert heard.recv(100) == b"STOPPING=1"


def test_a_unix_socket_outlives_a_worker_that_closes_it(
    start: Any, ask: Any, tmp_path: Path
) -> None:
    path = tmp_path / "x.sock"
    source = f"""
async def served_there(cancel):
    server = await asyncio.start_unix_server(answer, sock=context.get("unix://{path}"))
    await cancel.wait()
    server.close()
    await server.wait_closed()

async def prepare(cancel: plugin.Cancel):
    yield served_there(cancel)

fork.stage(prepare, forks=2, sockets=["unix://{path}"])
"""
    program = start(source)
    program.until("all workers are ready")
    os.kill(program.running()[0], signal.SIGTERM)
    program.until("exited with 0")
    assert int(ask(path)) in program.running()
    assert program.ended(signal.SIGTERM) == 0
    assert not path.exists()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"forks": -1}, "forks: -1"),
        ({"grace": 0}, "grace: 0 is no number"),
        ({"startup_timeout": -1}, "startup_timeout: -1"),
        ({"sockets": ["tcp://nowhere"]}, "the socket 'tcp://nowhere': use tcp://host:port"),
    ],
)
def test_what_cannot_be(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        fork.stage("nothing", **options)


async def test_no_loop_is_forked_and_no_other_thread_forks() -> None:
    with pytest.raises(RuntimeError, match="an event loop runs here"):
        fork.stage("nothing")
    with pytest.raises(RuntimeError, match="the main thread only"):
        await asyncio.to_thread(fork.stage, "nothing")
