"""The workers, run as a newcomer runs them, on real servers."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

DEMO = Path(__file__).parents[1] / "demo.py"


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


@pytest.mark.parametrize("server", ["redis", "postgres"])
def test_no_update_is_lost(server: str, own_fleet_url: str) -> None:
    status, printed = run("--workers", "4", "--kills", "1", "--seconds", "3", url=own_fleet_url)
    assert status == 0, printed
    rows = re.findall(r"worker-(\d) +(\d+) +(\d+) +(\d+) ms +(killed)?", printed)
    assert [row[0] for row in rows] == ["1", "2", "3", "4"]
    assert [bool(row[4]) for row in rows] == [True, False, False, False]
    assert all(int(row[1]) for row in rows[1:])
    (updates,) = re.findall(r"(\d+) updates, none lost", printed)
    assert int(updates) == sum(int(row[2]) for row in rows)


@pytest.fixture
def own_fleet_url(server: str, request: pytest.FixtureRequest) -> str:
    """A server of its own: the example uses no prefix."""
    url: str = request.getfixturevalue(f"own_{server}").url
    return url


def test_it_brings_a_server() -> None:
    status, printed = run("--throwaway", "--workers", "2", "--kills", "0", "--seconds", "0.5")
    assert status == 0, printed
    assert "none lost" in printed


@pytest.mark.parametrize(
    ("url", "word"),
    [("memory://", "locks in memory are those of one process"), ("", "locks in memory")],
)
def test_memory_says_why_it_cannot(url: str, word: str) -> None:
    status, printed = run(url=url)
    assert status == 1
    assert word in printed
    assert len(printed.splitlines()) == 1


def test_a_backend_that_is_not_there_is_one_clear_line() -> None:
    status, printed = run(url="redis://user:geheim@127.0.0.1:1/0")
    assert status == 1
    assert "geheim" not in printed
    assert len(printed.splitlines()) == 1


def test_somebody_has_to_be_left() -> None:
    status, printed = run("--workers", "1", "--kills", "1")
    assert status == 2
    assert "--kills" in printed
