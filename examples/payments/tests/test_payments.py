"""The payments, run as a newcomer runs them, on real servers."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from grelmicro.testing.servers import RedisServer

DEMO = Path(__file__).parents[1] / "demo.py"
ROW = re.compile(r"^ *(\d) +(\w+) +(\d+) +(\d+) +(\d+) +(\d+) +(\w+) +(\w+) *$", re.MULTILINE)


def run(*arguments: str, url: str = "") -> tuple[int, str]:
    """The demonstration's exit status, and what it printed."""
    done = subprocess.run(
        [sys.executable, str(DEMO), *arguments],
        env=os.environ | {"GRELMICRO_URL": url},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=90,
        check=False,
    )
    return done.returncode, done.stdout


@pytest.mark.parametrize(("server", "mood"), [("redis", "failing"), ("postgres", "hanging")])
def test_both_replicas_spare_a_bank_that_is_ill(
    server: str, mood: str, request: pytest.FixtureRequest
) -> None:
    url = request.getfixturevalue(f"own_{server}").url
    status, printed = run("--mood", mood, url=url)
    assert status == 0, printed
    rows = ROW.findall(printed)
    assert [row[1] for row in rows] == ["well"] * 2 + [mood] * 3 + ["well"] * 3
    assert all(sum(map(int, row[2:6])) == 100 for row in rows)
    for _, _, _, _, failed, short, *states in rows[3:5]:
        assert int(short) > int(failed)
        assert "CLOSED" not in states
    assert [*rows[-1][6:]] == ["CLOSED", "CLOSED"]
    assert "the bank was asked" in printed


def test_memory_says_why_it_cannot() -> None:
    status, printed = run(url="memory://")
    assert status == 1
    assert "those of one process" in printed
    assert len(printed.splitlines()) == 1


def test_a_backend_that_is_not_there_is_one_clear_line() -> None:
    status, printed = run(url="redis://user:geheim@127.0.0.1:1/0")
    assert status == 1
    assert "geheim" not in printed
    assert len(printed.splitlines()) == 1


def test_ctrl_c_ends_it_without_a_traceback(redis_server: RedisServer) -> None:
    process = subprocess.Popen(
        [sys.executable, "-u", str(DEMO)],
        env=os.environ | {"GRELMICRO_URL": redis_server.url},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with process:
        assert process.stdout is not None
        begun = "".join(process.stdout.readline() for _ in range(3))
        process.send_signal(signal.SIGINT)
        printed = process.stdout.read()
        status = process.wait(timeout=60)
    assert "two replicas share" in begun
    assert "Traceback" not in printed
    assert status == 130
