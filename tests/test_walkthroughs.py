"""Pages that start a service are walked through: it runs, and answers what they say."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep

import httpx
import pytest
from documents import DOCUMENTS, FENCES, ROOT, Fence
from known_commands import REDIS

from grelmicro.testing.servers import RedisServer

START = re.compile(r"^(?:GRELMICRO_URL=(\S+) )?uvicorn (\w+:\w+)$", re.MULTILINE)
EXCHANGE = re.compile(r"^\$ curl -s (?:-X (\w+) )?localhost:8000(\S*)\n(.*)$", re.MULTILINE)
SECONDS = 20


def _starts(fences: list[Fence]) -> bool:
    return any(fence.language == "sh" and START.search(fence.source) for fence in fences)


WALKTHROUGHS = [page for page in DOCUMENTS if _starts(FENCES[page])]


@contextmanager
def serving(application: str, folder: Path, url: str | None) -> Generator[httpx.Client]:
    """Run it as the page says; a client that speaks to it."""
    environment = {n: v for n, v in os.environ.items() if not n.startswith("GRELMICRO_")}
    command = [sys.executable, "-W", "error", "-m", "uvicorn", application, "--port", "0"]
    log = folder / "log"
    with (
        log.open("w") as written,
        subprocess.Popen(
            command,
            cwd=folder,
            env=environment | ({"GRELMICRO_URL": url} if url else {}),
            stdout=written,
            stderr=subprocess.STDOUT,
        ) as process,
    ):
        try:
            with httpx.Client(base_url=_address(process, log), timeout=SECONDS) as client:
                yield client
        finally:
            process.send_signal(signal.SIGTERM)
    assert "Traceback" not in log.read_text()


def _address(process: "subprocess.Popen[bytes]", log: Path) -> str:
    deadline = monotonic() + SECONDS
    while not (found := re.search(r"running on (http://\S+)", log.read_text())):
        assert process.poll() is None, log.read_text()
        assert monotonic() < deadline, log.read_text()
        sleep(0.02)
    return found[1]


def compare(client: httpx.Client, fence: Fence) -> int:
    """Ask what the fence asks; how often that was."""
    exchanges = EXCHANGE.findall(fence.source)
    assert len(exchanges) == fence.source.count("$ "), fence.place
    for method, path, expected in exchanges:
        answer = client.request(method or "GET", path).text
        pattern = re.escape(expected).replace(re.escape("..."), ".+")  # a time, for example
        assert re.fullmatch(pattern, answer), f"{fence.place}: {answer}"
    return len(exchanges)


@pytest.mark.parametrize("page", WALKTHROUGHS, ids=lambda page: str(page.relative_to(ROOT)))
def test_services_answer_what_the_page_says(
    page: Path, own_redis: RedisServer, tmp_path: Path
) -> None:
    asked = 0
    for start, fences in _stages(page, tmp_path):
        url = start[1] and start[1].replace(REDIS, own_redis.url)
        with serving(start[2], tmp_path, url) as client:
            asked += sum(compare(client, fence) for fence in fences)
    assert asked


def _stages(page: Path, folder: Path) -> Iterator[tuple[re.Match[str], list[Fence]]]:
    """Each start of a service on the page, and the exchanges that follow it."""
    start, exchanges = None, list[Fence]()
    for fence in FENCES[page]:
        if title := fence.title:
            (folder / title).write_text(fence.source)
        if fence.language == "sh" and (found := START.search(fence.source)):
            if start:
                yield start, exchanges
            start, exchanges = found, []
        elif fence.language == "console" and "$ curl" in fence.source:
            exchanges.append(fence)
    if start:
        yield start, exchanges
