"""The command line: `python -m grelmicro providers`, `check [URL]`, `ddl NAME`, and more.

Other distributions add commands by the entry point `grelmicro.commands`: a function that takes the
arguments after its name and returns the exit status.
"""

import argparse
import asyncio
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from grelmicro.errors import GrelmicroError
from grelmicro.providers import Provider, autodiscover, available, from_url, load
from grelmicro.providers._provider import supported_kinds

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = ["main"]

_DESCRIPTION = "What is installed, whether it works, and what it needs."

_PATIENCE = 30.0
"""Seconds after which a check is given up, whatever the provider's own timeouts."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status says whether it went well."""
    given = sys.argv[1:] if arguments is None else [*arguments]
    others = _others()
    if given[:1] and given[0] in others:
        return others[given[0]].load()(given[1:])  # type: ignore[no-any-return]  # as it promises
    parser = argparse.ArgumentParser(prog="python -m grelmicro", description=_DESCRIPTION)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    providers = commands.add_parser("providers", help="what is installed, and what each serves")
    providers.set_defaults(run=lambda _: _providers())
    check = commands.add_parser("check", help="open a backend, ping it, and say how long that took")
    check.add_argument("url", nargs="?", help="by default GRELMICRO_URL, or memory://")
    check.set_defaults(run=lambda options: _check(options.url))
    ddl = commands.add_parser("ddl", help="the statements that make a backend's tables")
    ddl.add_argument("name", help="of a provider, such as postgres")
    ddl.set_defaults(run=lambda options: _ddl(options.name))
    for name in others:
        commands.add_parser(
            name, help=f"of {_distribution(others[name])}: it has a --help of its own"
        )
    options = parser.parse_args(given)
    status: int = options.run(options)
    return status


def _others() -> "dict[str, EntryPoint]":
    from importlib.metadata import entry_points

    return {each.name: each for each in sorted(entry_points(group="grelmicro.commands"))}


def _distribution(entry_point: "EntryPoint") -> str:
    return entry_point.dist.name if entry_point.dist else "another distribution"


def _providers() -> int:
    width = max(map(len, available()), default=0)
    broken = False
    for name in available():
        try:
            serves = ", ".join(supported_kinds(load(name))) or "nothing"
        except GrelmicroError as error:
            broken, serves = True, f"cannot be loaded: {error}"
        print(f"{name:<{width}}  {serves}")
    return int(broken)


def _check(url: str | None) -> int:
    try:
        provider = autodiscover() if url is None else from_url(url)
        seconds = asyncio.run(_ping(provider))
    except Exception as error:  # whatever a backend raises, the answer is that it does not work
        notes = "".join(f" ({note})" for note in getattr(error, "__notes__", ()))
        print(f"failed: {type(error).__name__}: {error}{notes}", file=sys.stderr)
        return 1
    print(f"{provider!r} answered in {seconds * 1000:.2f} ms")
    return 0


def _ddl(name: str) -> int:
    try:
        provider = load(name)
    except GrelmicroError as error:
        print(error, file=sys.stderr)
        return 1
    statements = provider.ddl()
    if not statements:
        print(f"{name} makes no tables", file=sys.stderr)
        return 1
    print(statements, end="")
    return 0


async def _ping(provider: Provider) -> float:
    async with asyncio.timeout(_PATIENCE), provider:
        return await provider.ping()


if __name__ == "__main__":
    sys.exit(main())
