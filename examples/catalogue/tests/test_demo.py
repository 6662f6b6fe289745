"""The demonstration, run as a newcomer runs it: processes, sockets, signals."""

import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

DEMO = Path(__file__).parents[1] / "demo.py"


@contextmanager
def demo(*arguments: str, url: str | None = None) -> Generator[subprocess.Popen[str], None, None]:
    """The demonstration as a process, which is gone after the block."""
    environment = {**os.environ, "GRELMICRO_URL": url or ""}
    process = subprocess.Popen(
        [sys.executable, str(DEMO), *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def numbers(row: str, output: str) -> list[float]:
    """The figures of one row of the table."""
    line = next(line for line in output.splitlines() if line.strip().startswith(row))
    return [float(number) for number in re.findall(r"[\d.]+", line.strip().removeprefix(row))]


def is_a_demonstration_on(output: str, scheme: str) -> bool:
    """Check what the table says, and on which backend."""
    requests, origin_calls, folded, hits, *_ = numbers("one cold product", output)
    assert (requests, origin_calls) == (100, 1)
    assert folded + round(hits) + origin_calls == requests
    assert numbers("40 products", output)[:2] == [1000, 40]
    assert numbers("uncached", output)[:2] == [100, 100]
    return f"A catalogue on {scheme}://" in output


def test_it_shows_a_cache_in_memory() -> None:
    with demo() as process:
        output, _ = process.communicate(timeout=90)
    assert process.returncode == 0, output
    assert is_a_demonstration_on(output, "memory")


def test_one_variable_moves_it_to_redis(redis_url: str) -> None:
    with demo(url=redis_url) as process:
        output, _ = process.communicate(timeout=90)
    assert process.returncode == 0, output
    assert is_a_demonstration_on(output, "redis")


@pytest.mark.parametrize(
    ("url", "word"),
    [
        ("redis://user:geheim@127.0.0.1:1/0", "ConnectionError"),
        ("mongo://user:geheim@127.0.0.1/0", "pip install grelmicro-mongo"),
        ("nonsense", "GRELMICRO_URL"),
    ],
)
def test_a_backend_that_is_not_there_is_one_clear_line(url: str, word: str) -> None:
    with demo(url=url) as process:
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert word in output
    assert "geheim" not in output
    assert len(output.splitlines()) == 1


def test_it_serves_until_it_is_interrupted() -> None:
    with demo("--serve") as process:
        assert process.stdout is not None
        shown = [process.stdout.readline() for _ in range(3)]
        address = re.search(r"http://\S+/products/7", "".join(shown))
        assert address is not None
        for _ in range(2):
            with urllib.request.urlopen(address[0], timeout=10) as answer:
                assert b'"Product 7"' in answer.read()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
    assert process.returncode == 0
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(address[0], timeout=10)
