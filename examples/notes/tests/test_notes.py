"""The notes, used by real clients over a real server, as a newcomer runs them."""

import asyncio
import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect

from grelmicro.testing.servers import RedisServer

DEMO = Path(__file__).parents[1] / "demo.py"


def run(**environment: str) -> tuple[int, str]:
    """The demonstration's exit status, and what it printed."""
    done = subprocess.run(
        [sys.executable, str(DEMO), "--writers", "6", "--listeners", "3"],
        env={**os.environ, "GRELMICRO_URL": "", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=90,
        check=False,
    )
    return done.returncode, done.stdout


def check(printed: str) -> None:
    assert "6 batches of 5 notes were committed, and 6 with" in printed
    assert "3 listeners heard of 30 notes each, and just these are in the list" in printed
    assert "removed, and are gone from the cache as well" in printed


def test_the_demonstration_on_a_file_and_in_memory() -> None:
    status, printed = run()
    assert status == 0, printed
    assert re.search(r"http://127\.0\.0\.1:\d+, on sqlite\n", printed)
    check(printed)


def test_the_demonstration_on_postgres_and_redis(own_postgres: Any, own_redis: Any) -> None:
    status, printed = run(NOTES_URL=own_postgres.url, GRELMICRO_URL=own_redis.url)
    assert status == 0, printed
    assert ", on postgresql\n" in printed
    check(printed)


@pytest.mark.parametrize(
    "environment",
    [
        {"NOTES_URL": "mysql://user:geheim@127.0.0.1/notes"},
        {"NOTES_URL": "postgresql://user:geheim@127.0.0.1:1/notes"},
    ],
)
def test_a_database_that_is_not_there_is_one_clear_line(environment: dict[str, str]) -> None:
    status, printed = run(**environment)
    assert status == 1
    assert "geheim" not in printed
    (line,) = printed.splitlines()
    assert line == "failed: the service ended at its start: NOTES_URL cannot be used"


@pytest.fixture
async def service(
    own_redis: RedisServer, tmp_path: Path
) -> AsyncGenerator[tuple[str, httpx.AsyncClient]]:
    """The service in a process of its own; its address, and a client."""
    spec = importlib.util.spec_from_file_location("notes_demo", DEMO)
    assert spec is not None
    assert spec.loader is not None
    demo = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(demo)
    environment = {
        "NOTES_URL": f"sqlite:{tmp_path}/notes.db",
        "GRELMICRO_URL": own_redis.url,
    }
    async with demo.served(environment) as served:
        yield served


async def test_what_a_client_sees(
    service: tuple[str, httpx.AsyncClient], own_redis: RedisServer
) -> None:
    place, client = service
    async with connect(f"ws://{place}/feed") as feed:
        gone = await connect(f"ws://{place}/feed")
        gone.transport.abort()
        (note,) = (await client.post("/notes", json=["groceries"])).json()
        assert json.loads(await feed.recv()) == {"what": "added", "note": note}
    path = f"/notes/{note['pk']}"
    assert (await client.get(path)).json() == note
    assert (await client.get(path)).json() == note

    missing = await client.get("/notes/1000")
    assert (missing.status_code, missing.json()["detail"]) == (404, "there is no note 1000")
    invalid = await client.post("/notes", json=["", "x"])
    assert (invalid.status_code, invalid.json()["title"]) == (422, "Unprocessable Content")
    assert invalid.headers["content-type"] == "application/problem+json"
    assert (await client.get("/notes")).json() == [note]

    assert (await client.delete(path)).status_code == 204
    assert (await client.delete(path)).status_code == 404
    assert (await client.get(path)).status_code == 404

    too_many = [client.post("/notes", json=[]) for _ in range(200)]
    answers = await asyncio.gather(*too_many)
    refused = [answer for answer in answers if answer.status_code == 429]
    assert refused
    assert int(refused[0].headers["retry-after"]) >= 1
    assert refused[0].headers["ratelimit-limit"] == "100"

    own_redis.kill()
    away = await client.get("/readyz")
    assert (away.status_code, away.json()["detail"]) == (503, "no sign of life: redis")
    assert (await client.get("/notes")).status_code == 200  # the notes are elsewhere
