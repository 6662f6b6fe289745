"""The coordinator: `run.py MODULE=PYTHON ... [--rounds N] [--calls N] [--json FILE]`."""

import argparse
import json
import platform
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent

TARGETS = {
    "TTLCache.get hit": 2.6,
    "@cached hit, key_maker": 4.5,
    "@cached hit, default key": 8.0,
    "import grelmicro": 1.3,
}

_IMPORT = """
from time import perf_counter
started = perf_counter()
import {module}
print(perf_counter() - started)
"""


class Worker:
    """One environment's process."""

    def __init__(self, module: str, python: str) -> None:
        self.module = module
        self._process = subprocess.Popen(
            [python, "-W", "ignore", str(HERE / "worker.py"), module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.floors: dict[str, str] = self._read()

    def measure(self, case: str, calls: int) -> tuple[float, float]:
        """Nanoseconds that a call of `case` takes, and one of its floor."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([case, calls]) + "\n")
        self._process.stdin.flush()
        time, floor = self._read()
        return time, floor

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=30)

    def _read(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"the worker of {self.module} ended: see its message above")
        return json.loads(line)


Row = dict[str, Any]


def interleaved(workers: list[Worker], rounds: int, calls: int) -> list[Row]:
    """One row a case: every case of every worker has its turn in every round."""
    samples: dict[tuple[Worker, str], list[tuple[float, float]]] = {}
    for _ in range(rounds):
        for worker in workers:
            for case in worker.floors:
                samples.setdefault((worker, case), []).append(worker.measure(case, calls))
    return [row(case, worker.floors[case], pairs) for (worker, case), pairs in samples.items()]


def row(case: str, floor: str, pairs: list[tuple[float, float]]) -> Row:
    """A case's median time, and the median of its ratios to the floor beside it."""
    time = statistics.median(time for time, _ in pairs)
    ratios = sorted(time / floor for time, floor in pairs)
    ratio = statistics.median(ratios)
    return {"case": case, "ns": time, "floor": floor, "ratio": ratio, "ratios": ratios}


def import_time(python: str, module: str) -> float:
    """Nanoseconds of an import in a fresh process."""
    script = _IMPORT.format(module=module)
    done = subprocess.run([python, "-c", script], capture_output=True, check=True)
    return float(done.stdout) * 1e9


def imports(python: str, rounds: int) -> Row:
    """The row of `import grelmicro`, beside `import asyncio`."""
    pairs = [
        (import_time(python, "grelmicro"), import_time(python, "asyncio")) for _ in range(rounds)
    ]
    return row("import grelmicro", "import asyncio", pairs)


def show(table: list[dict[str, Any]]) -> None:
    """Print the rows, grouped by floor, the fastest first."""
    print(f"{'case':44} {'ns':>9}  {'ratio':>6}  {'target':>6}  floor")
    for row in sorted(table, key=lambda row: (row["floor"], row["ratio"])):
        target = TARGETS.get(row["case"])
        mark = "" if target is None else f"{target:.1f}{' ' if row['ratio'] <= target else '!'}"
        print(f"{row['case']:44} {row['ns']:9.0f}  {row['ratio']:6.2f}  {mark:>6}  {row['floor']}")


def main() -> None:
    """Measure, show, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workers", nargs="+", metavar="MODULE=PYTHON")
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--calls", type=int, default=20_000)
    parser.add_argument("--users", help="a Python with the built wheels, for the import time")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    workers = [Worker(*argument.split("=", 1)) for argument in options.workers]
    try:
        table = interleaved(workers, options.rounds, options.calls)
    finally:
        for worker in workers:
            worker.close()
    table.append(imports(options.users or sys.executable, options.rounds))
    show(table)
    if options.json:
        conditions = {"python": platform.python_version(), "machine": platform.machine()}
        options.json.write_text(json.dumps({**conditions, "rows": table}, indent=1))


if __name__ == "__main__":
    main()
