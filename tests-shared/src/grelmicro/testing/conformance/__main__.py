"""`python -m grelmicro conformance [NAME or URL]...`: hold backends to their promises."""

import argparse
import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the clauses by pytest; its exit status, 0 when all is kept."""
    import pytest

    parser = argparse.ArgumentParser(
        prog="python -m grelmicro conformance",
        description="Hold backends to what every backend promises.",
        epilog="Other options are pytest's: -k cache, -x, --conformance-report FILE, --require",
    )
    parser.add_argument(
        "providers",
        nargs="*",
        metavar="NAME_OR_URL",
        help="by default all that are installed; a URL's server is written to and cleared",
    )
    named, options = parser.parse_known_intermixed_args(arguments)
    providers = [part for each in named.providers for part in ("--provider", each)]
    command = ["--pyargs", "grelmicro.testing.conformance", "-p", "no:cacheprovider", "-q"]
    command += ["-W", "ignore:Module already imported"]  # by `python -m grelmicro`
    return int(pytest.main([*command, *providers, *options]))


if __name__ == "__main__":
    sys.exit(main())
