"""What a process with this logging writes, told by real processes."""

import json
import subprocess
import sys
from typing import Any

import pytest

from grelmicro.service import log

PROGRAM = """
import logging, sys, structlog
from grelmicro.service import log
log.LogConfig(tty={tty}, level="{level}").setup()
log.LogConfig(tty={tty}, level="{level}").setup()
structlog.get_logger("ours").info("from structlog", answer=42, thing=object)
structlog.get_logger("ours").debug("not at info")
logging.getLogger("theirs").warning("from %s", "logging", extra={{"more": 1}})
try:
    1 / 0
except ZeroDivisionError:
    logging.getLogger("theirs").exception("caught")
raise RuntimeError("nobody caught it")
"""


def written(tty: bool | None, level: str = "INFO") -> list[str]:
    command = [sys.executable, "-c", PROGRAM.format(tty=tty, level=level)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    return done.stderr.splitlines()


@pytest.mark.parametrize("tty", [False, None])
def test_lines_of_json(tty: bool | None) -> None:
    lines: list[dict[str, Any]] = [json.loads(line) for line in written(tty)]
    assert [line["event"] for line in lines] == [
        "from structlog",
        "from logging",
        "caught",
        "uncaught exception",
    ]
    assert [line["level"] for line in lines] == ["info", "warning", "error", "critical"]
    assert [line["logger"] for line in lines] == ["ours", "theirs", "theirs", "grelmicro.service"]
    assert (lines[0]["answer"], lines[1]["more"]) == (42, 1)
    assert "ZeroDivisionError" in lines[2]["exception"]
    assert "nobody caught it" in lines[3]["exception"]
    assert all("timestamp" in line for line in lines)


def test_for_eyes() -> None:
    text = "\n".join(written(True))
    assert "from structlog" in text
    assert "from logging" in text
    assert "nobody caught it" in text
    assert not text.startswith("{")


def test_the_level_counts_for_both() -> None:
    assert [json.loads(line)["event"] for line in written(False, "WARNING")][:1] == ["from logging"]
    assert "not at info" in "\n".join(written(False, "DEBUG"))


def test_an_unknown_level() -> None:
    with pytest.raises(ValueError, match="there is no 'LOUD'"):
        log.LogConfig(level="LOUD")
