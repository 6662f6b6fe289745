"""`python -m grelmicro.testing table REPORT...`: what backends keep, as a table in Markdown."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from grelmicro.testing.conformance._results import table

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit status."""
    parser = argparse.ArgumentParser(prog="python -m grelmicro.testing")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    tables = commands.add_parser("table", help="the matrix of what several backends keep")
    tables.add_argument(
        "reports", nargs="+", type=Path, metavar="REPORT", help="--conformance-report's"
    )
    options = parser.parse_args(arguments)
    try:
        reports = [json.loads(path.read_text()) for path in options.reports]
        text = table(reports)
    except (OSError, ValueError, KeyError, TypeError) as error:
        print(f"no report can be read: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    print(text, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
