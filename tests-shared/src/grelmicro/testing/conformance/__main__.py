"""`python -m grelmicro conformance [NAME or URL]...`: hold backends to their promises."""

import sys
from collections.abc import Sequence

__all__ = ["main"]

_HELP = "hold backends to what every backend promises: names or URLs, and options of pytest"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the clauses by pytest; its exit status."""
    import pytest

    given = sys.argv[1:] if arguments is None else arguments
    named = [each for each in given if not each.startswith("-")]
    options = [each for each in given if each.startswith("-")]
    providers = [part for each in named for part in ("--provider", each)]
    command = ["--pyargs", "grelmicro.testing.conformance", "-p", "no:cacheprovider", "-q"]
    return int(pytest.main([*command, *providers, *options]))


main.help = _HELP  # type: ignore[attr-defined]  # the command line shows it


if __name__ == "__main__":
    sys.exit(main())
