"""The demonstration, run as a newcomer runs it: processes, sockets, signals."""

import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

DEMO = Path(__file__).parents[1] / "demo.py"
PATIENCE = 90


@contextmanager
def demo(*arguments: str, url: str = "") -> Generator[subprocess.Popen[str], None, None]:
    """The demonstration as a process, which is gone after the block."""
    process = subprocess.Popen(
        [sys.executable, str(DEMO), *arguments],
        env=os.environ | {"GRELMICRO_URL": url, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=PATIENCE)


def lines_until(process: subprocess.Popen[str], text: str) -> str:
    """What the process prints, up to the line with that text."""
    assert process.stdout is not None
    printed = ""
    while text not in printed:
        line = process.stdout.readline()
        assert line, printed
        printed += line
    return printed


def figures(row: str, printed: str) -> list[float]:
    """The numbers in one row of the table."""
    (line,) = (line for line in printed.splitlines() if line.strip().startswith(row))
    return [float(number) for number in re.findall(r"[\d.]+", line.strip().removeprefix(row))]


def assert_the_server_is_gone(printed: str) -> None:
    """Check that the application that the demonstration started has ended."""
    (number,) = re.findall(r"\(process (\d+)\)", printed)
    with pytest.raises(ProcessLookupError):
        os.kill(int(number), 0)


def assert_it_shows_a_cache(printed: str, backend: str) -> None:
    """Check every figure that does not depend on the machine."""
    assert f"cached on {backend}" in printed
    assert "100 requests at once" in printed
    (folded, calls), *_ = re.findall(r"(\d+) folded into one, origin calls: (\d+)", printed)
    assert calls == "1"
    assert int(folded) > 0
    assert figures("requests", printed) == [400, 400]
    assert figures("origin calls", printed) == [400, 40]
    (hits,), (shared,) = figures("hit ratio", printed), figures("folded into one", printed)
    assert round(400 * hits / 100) + shared + 40 == 400
    assert len(figures("p50", printed)) == len(figures("p99", printed)) == 2


def run(*arguments: str, url: str = "") -> tuple[int, str]:
    """The demonstration's exit status, and what it printed."""
    with demo(*arguments, url=url) as process:
        printed, _ = process.communicate(timeout=PATIENCE)
    return process.returncode, printed


def test_it_shows_a_cache_in_memory() -> None:
    status, printed = run()
    assert status == 0, printed
    assert_it_shows_a_cache(printed, "memory://")
    assert_the_server_is_gone(printed)


def test_one_variable_moves_it_to_redis(redis_url: str) -> None:
    status, printed = run(url=redis_url)
    assert status == 0, printed
    assert_it_shows_a_cache(printed, "redis://")
    assert_the_server_is_gone(printed)


@pytest.mark.parametrize(
    ("url", "word"),
    [
        ("redis://user:geheim@127.0.0.1:1/0", "GRELMICRO_URL"),
        ("redis://user:geheim@127.0.0.1:port/0", "GRELMICRO_URL"),
        ("mongo://user:geheim@127.0.0.1/0", "mongo://"),
        ("geheim", "GRELMICRO_URL"),
    ],
)
@pytest.mark.parametrize("arguments", [(), ("--serve",)], ids=["demo", "serve"])
def test_a_backend_that_is_not_there_is_one_clear_line(
    arguments: tuple[str, ...], url: str, word: str
) -> None:
    status, printed = run(*arguments, url=url)
    assert status == 1
    assert word in printed
    assert "geheim" not in printed
    assert len(printed.splitlines()) == 1


@pytest.mark.parametrize("arguments", [(), ("--serve",)], ids=["demo", "serve"])
def test_a_port_that_is_taken_is_one_clear_line(arguments: tuple[str, ...]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        status, printed = run(*arguments, "--port", str(port))
    assert (status, printed) == (
        1,
        f"failed: port {port} cannot be used (Address already in use)\n",
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_it_serves_until_it_is_interrupted(number: signal.Signals) -> None:
    with demo("--serve") as process:
        printed = lines_until(process, "Ctrl-C ends it")
        (address,) = re.findall(r"http://\S+/products/7", printed)
        with urllib.request.urlopen(address, timeout=PATIENCE) as answer:
            assert b'"Tea no. 7"' in answer.read()
        process.send_signal(number)
        rest, _ = process.communicate(timeout=PATIENCE)
    assert (process.returncode, rest) == (0, "")
    assert_the_server_is_gone(printed)


def test_an_interrupted_demonstration_takes_its_server_along() -> None:
    with demo() as process:
        printed = lines_until(process, "through it")
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=PATIENCE)
    assert (process.returncode, rest) == (130, "")
    assert_the_server_is_gone(printed)


def test_a_server_that_dies_is_a_failure() -> None:
    with demo("--serve") as process:
        printed = lines_until(process, "Ctrl-C ends it")
        (number,) = re.findall(r"\(process (\d+)\)", printed)
        os.kill(int(number), signal.SIGKILL)
        rest, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert "the application ended by itself" in rest
