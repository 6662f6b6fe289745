"""The command line: `python -m grelmicro.service run pkg.mod --bind tcp://:5678 --forks 0`.

It exits with 0 when it was stopped and all went well, with 1 when something failed, and with 2 when
it was not called as it should be.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from grelmicro.errors import GrelmicroError
from grelmicro.service import config, context, fork
from grelmicro.service._exits import run
from grelmicro.service._loading import Loader
from grelmicro.service._references import Reference
from grelmicro.service._sockets import parse
from grelmicro.service.log import LogConfig

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status says whether it went well."""
    parser = argparse.ArgumentParser(
        prog="python -m grelmicro.service", description="A service made of plugins."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_run(commands.add_parser("run", help="run plugins until SIGTERM or SIGINT"))
    options = parser.parse_args(arguments)
    try:
        _configured(options).load(LogConfig, "log").setup()
    except (OSError, GrelmicroError) as error:
        parser.error(str(error))
    return run(lambda: _run(options))


def _add_run(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("plugins", nargs="+", metavar="PLUGIN", help="pkg.mod or pkg.mod:attribute")
    add("--forks", type=_count, metavar="N", help="so many workers; 0: one per CPU; else no fork")
    address = "tcp://host:port, tcp://[ipv6]:port or unix:///path; may be repeated"
    add("--bind", action="append", default=[], type=_socket, metavar="URI", help=address)
    files = "a .toml, .json or .yaml file; may be repeated, a later one over those before"
    add("--config", action="append", default=[], metavar="FILE", help=files)
    prefix = "of the environment variables over the files: APP by default"
    add("--env-prefix", default="APP", metavar="PREFIX", help=prefix)
    grace = "in which it has stopped: 25 by default"
    add("--grace", type=_seconds, default=25.0, metavar="SECONDS", help=grace)
    startup = "in which it has to be ready: 60 by default"
    add("--startup-timeout", type=_seconds, default=60.0, metavar="SECONDS", help=startup)


def _run(options: argparse.Namespace) -> list[Any]:
    async def configured(load: Loader) -> None:
        """The first plugin: each worker reads the files itself, those after SIGHUP anew."""
        source = context.add(_configured(options))
        source.load(LogConfig, "log").setup()
        await load(config)

    plugins: list[Reference] = [configured, *options.plugins]
    times = options.grace, options.startup_timeout
    if options.forks is None:
        return fork.run_alone(plugins, options.bind, *times)
    fork.run_forked(plugins, options.forks, options.bind, *times)
    return []


def _configured(options: argparse.Namespace) -> config.ConfigSource:
    return config.ConfigSource.from_files(*options.config, env_prefix=options.env_prefix)


def _count(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text}: it is less than 0")
    return number


def _seconds(text: str) -> float:
    seconds = float(text)
    if not seconds > 0:
        raise argparse.ArgumentTypeError(f"{text}: it is not above 0")
    return seconds


def _socket(text: str) -> str:
    try:
        parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


if __name__ == "__main__":
    sys.exit(main())
