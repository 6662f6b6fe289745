"""The service, replaced and stopped under load, as a newcomer runs it."""

import os
import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parents[1]


def run(*command: str, **environment: str) -> tuple[int, str]:
    """The exit status, and what was printed; nothing is left of it, whatever happens."""
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=HERE,
        env=os.environ | {"GRELMICRO_URL": ""} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        process_group=0,
    )
    try:
        printed, _ = process.communicate(timeout=90)
    except BaseException:
        os.killpg(process.pid, 9)
        raise
    return process.returncode, printed


def test_no_order_fails_while_workers_are_replaced_and_stopped() -> None:
    status, printed = run("demo.py", "--workers", "2", "--clients", "4")
    assert status == 0, printed
    rows = re.findall(r"^ ([A-Z\w:, ]+?) +(\d+) +(\d+) *$", printed, re.MULTILINE)
    moments = ["before", "HUP: all replaced", "TERM to one worker", "after", "TERM: the end"]
    assert [row[0] for row in rows] == moments
    assert all(int(taken) > 0 for _, taken, _ in rows[:-1])
    assert all(failed == "0" for *_, failed in rows)
    (orders, processes) = re.findall(r"(\d+) orders, taken by (\d+) processes", printed)[0]
    assert int(orders) == sum(int(row[1]) for row in rows)
    assert int(processes) >= 3


def test_what_is_wrong_in_the_environment_is_told_before_anything_runs() -> None:
    command = ("-m", "grelmicro.service", "run", "orders.web", "--config", "config.toml")
    status, printed = run(*command, APP_ORDERS_TALLY_EVERY="often")
    assert status == 1
    assert "orders.tally_every" in printed
    assert "APP_ORDERS_TALLY_EVERY" in printed
    assert "Traceback" not in printed
    assert not (HERE / "orders.db").exists()
