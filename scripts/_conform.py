"""Whether reports of the conformance kit are all that they should be: `_conform.py REPORT...`.

A clause is kept, or it is not offered and `not_offered.toml` says so: what a backend stops to offer
by mistake would break nothing else. What was under test came from wheels.
"""

import fnmatch
import json
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

EXPECTED = Path(__file__).with_name("not_offered.toml")


def faults(backend: Mapping[str, Any], expected: Sequence[str]) -> Iterator[str]:
    """What is wrong with a backend's part of a report, a line each."""
    outcomes = {clause: entry["outcome"] for clause, entry in backend["clauses"].items()}
    known = {clause for pattern in expected for clause in fnmatch.filter(outcomes, pattern)}
    for clause, outcome in outcomes.items():
        if clause in known and outcome != "not offered":
            yield f"{clause}: {outcome}, but {EXPECTED.name} says that it is not offered"
        elif clause not in known and outcome != "kept":
            yield f"{clause}: {outcome}"
    for pattern in expected:
        if not fnmatch.filter(outcomes, pattern):
            yield f"{pattern}: {EXPECTED.name} has it, and no clause is called so"


def editable() -> Iterator[str]:
    """Distributions that are not what a wheel has brought."""
    for each in distributions():
        origin = each.read_text("direct_url.json")
        if origin and "dir_info" in json.loads(origin):
            yield f"{each.name}: installed from a folder"


def main(paths: Sequence[str]) -> int:
    """Tell what is wrong; the exit status."""
    expected = tomllib.loads(EXPECTED.read_text())
    found = [*editable()]
    for path in paths:
        backends = json.loads(Path(path).read_text())["backends"]
        found += [] if backends else [f"{path}: no backend was under test"]
        for each in backends:
            wrong = faults(each, expected.get(each["name"], ()))
            found += [f"{each['name']}: {text}" for text in wrong]
    print(*found or ["every promise is kept"], sep="\n")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
