"""The rung for machines with a Docker engine and the `testcontainers` distribution."""

import importlib
import importlib.util
import subprocess
import sys
import warnings
from collections.abc import Callable, Mapping

from grelmicro.testing.servers._ladder import ServerStartError

_PROBE_SECONDS = 10.0
_PROBE = "from testcontainers.core.docker_client import DockerClient; DockerClient().client.ping()"


def container(
    image: str, port: int, environment: Mapping[str, str] | None = None
) -> tuple[str, int, Callable[[], object]] | None:
    """Start a container where an engine answers; None where none does.

    Args:
        image: The image to run.
        port: The port that the server inside listens on.
        environment: Variables to set inside.

    Returns:
        Host and port as seen from here, and what stops the container.

    Raises:
        ServerStartError: The engine answers and the container does not start.
    """
    if not _engine_answers():
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # testcontainers' own deprecations, as it loads
        core = importlib.import_module("testcontainers.core.container")
        try:
            made = core.DockerContainer(image).with_exposed_ports(port)
            for name, value in (environment or {}).items():
                made = made.with_env(name, value)
            running = made.start()
            host, outside = running.get_container_host_ip(), running.get_exposed_port(port)
        except Exception as error:  # of libraries that this one does not load to name it
            raise ServerStartError(f"the container of {image} does not start: {error}") from error
    return str(host), int(outside), running.stop


def _engine_answers() -> bool:
    """Ask in another process: what it loads, warns of or waits for stays there."""
    if importlib.util.find_spec("testcontainers") is None:
        return False
    try:
        probe = subprocess.run(  # noqa: S603 - our own interpreter and text
            [sys.executable, "-c", _PROBE],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_PROBE_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return False
    return probe.returncode == 0
