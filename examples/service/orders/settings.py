"""What can be configured; what is wrong is told before anything is opened."""

from dataclasses import dataclass
from pathlib import Path

from grelmicro.service import config, context, di, plugin


@dataclass(frozen=True)
class DatabaseConfig(config.Config, section="database"):
    """Where the orders are."""

    path: Path


@dataclass(frozen=True)
class OrdersConfig(config.Config, section="orders"):
    """What is sold, and how often the log has a tally."""

    prices: dict[str, float]
    tally_every: float = 60.0


async def prepare(load: plugin.Loader) -> None:
    """Read everything."""
    await load(config)
    for section in (DatabaseConfig, OrdersConfig):
        context.add(await di.nject(section))
