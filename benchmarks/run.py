"""The coordinator: `run.py MODULE=PYTHON ... [--rounds N] [--calls N] [--json FILE]`."""

import argparse
import json
import platform
import statistics
import subprocess
import sys
from collections.abc import Iterator
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

    def measure(self, case: str, calls: int) -> float:
        """Nanoseconds a call of `case` takes."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([case, calls]) + "\n")
        self._process.stdin.flush()
        return float(self._read())

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


def interleaved(workers: list[Worker], rounds: int, calls: int) -> dict[tuple[str, str], float]:
    """The median of every case of every worker, all of them measured in every round."""
    samples: dict[tuple[str, str], list[float]] = {}
    for _ in range(rounds):
        for worker in workers:
            for case in worker.floors:
                samples.setdefault((worker.module, case), []).append(worker.measure(case, calls))
    return {key: statistics.median(values) for key, values in samples.items()}


def imports(python: str, rounds: int) -> tuple[float, float]:
    """Median seconds of `import asyncio` and of `import grelmicro`, in fresh processes."""
    samples: dict[str, list[float]] = {"asyncio": [], "grelmicro": []}
    for _ in range(rounds):
        for module, values in samples.items():
            script = _IMPORT.format(module=module)
            done = subprocess.run([python, "-c", script], capture_output=True, check=True)
            values.append(float(done.stdout))
    return statistics.median(samples["asyncio"]), statistics.median(samples["grelmicro"])


def rows(workers: list[Worker], medians: dict[tuple[str, str], float]) -> Iterator[dict[str, Any]]:
    """One row a case that has a floor: its time, and its ratio to the floor of its own worker."""
    for worker in workers:
        for case, floor in worker.floors.items():
            if floor:
                time = medians[worker.module, case]
                ratio = time / medians[worker.module, floor]
                yield {"case": case, "ns": time, "floor": floor, "ratio": ratio}


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
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    workers = [Worker(*argument.split("=", 1)) for argument in options.workers]
    try:
        medians = interleaved(workers, options.rounds, options.calls)
    finally:
        for worker in workers:
            worker.close()
    table = list(rows(workers, medians))
    floor, ours = imports(sys.executable, options.rounds)
    table.append(
        {"case": "import grelmicro", "ns": ours * 1e9, "floor": "asyncio", "ratio": ours / floor}
    )
    show(table)
    if options.json:
        conditions = {"python": platform.python_version(), "machine": platform.machine()}
        options.json.write_text(json.dumps({**conditions, "rows": table}, indent=1))


if __name__ == "__main__":
    main()
