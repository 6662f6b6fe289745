"""Draws what becomes of a popular entry that expires, without protection and with it.

    python docs/pictures/stampede.py --run

measures: a hundred callers a second ask for an entry that lives for a second and takes 300 ms to
load. What was counted is kept beside the picture, so that it can be drawn again as it was.
"""

import asyncio
import json
import sys
from pathlib import Path
from time import monotonic

from drawing import BLUE, RED, Picture

DATA = Path(__file__).with_suffix(".json")
SECONDS, CALLERS, LOAD, STEP = 4.0, 100, 0.3, 0.1
LEFT, WIDTH, HEIGHT = 46, 460, 84


async def measure(*, lock: bool) -> list[int]:
    """Count the loads that begin in each tenth of a second."""
    from grelmicro.cache import JsonSerializer, TTLCache, cached
    from grelmicro.cache.memory import MemoryCacheAdapter

    began = monotonic()
    counts = [0] * round(SECONDS / STEP)

    @cached(TTLCache(ttl=1, serializer=JsonSerializer(), backend=MemoryCacheAdapter()), lock=lock)
    async def load() -> int:
        counts[min(int((monotonic() - began) / STEP), len(counts) - 1)] += 1
        await asyncio.sleep(LOAD)
        return 1

    calls = []
    for number in range(round(SECONDS * CALLERS)):
        await asyncio.sleep(began + number / CALLERS - monotonic())
        calls.append(asyncio.create_task(load()))
    await asyncio.gather(*calls)
    return counts


def panel(picture: Picture, top: float, counts: list[int], most: int, colour: str) -> None:
    """Draw one run."""
    bottom = top + HEIGHT
    step = WIDTH / len(counts)
    for number, count in enumerate(counts):
        height = HEIGHT * count / most
        picture.bar(LEFT + number * step + 1, bottom - height, step - 2, height, colour)
    picture.path(f"M{LEFT} {bottom} H{LEFT + WIDTH}")
    for value in (0, most):
        picture.text(LEFT - 6, bottom - HEIGHT * value / most + 4, str(value), at="end", size=12)


def draw(runs: dict[str, list[int]]) -> None:
    """Draw both runs, one above the other, to one scale."""
    without, with_lock = runs["without"], runs["lock"]
    says = f"{sum(without)} loads without protection, and {sum(with_lock)} with lock=True"
    picture = Picture("stampede", 520, 296, says)
    most = max(without)
    picture.text(LEFT, 16, f"@cached(prices): {sum(without)} loads", at="start")
    panel(picture, 28, without, most, RED)
    picture.text(LEFT, 146, f"@cached(prices, lock=True): {sum(with_lock)} loads", at="start")
    panel(picture, 158, with_lock, most, BLUE)
    for second in range(int(SECONDS) + 1):
        picture.text(LEFT + WIDTH * second / SECONDS, 260, f"{second} s", size=12)
    calls = round(SECONDS * CALLERS)
    picture.text(
        LEFT, 284, f"loads begun in each tenth of a second, of {calls} calls", at="start", size=12
    )
    picture.save()


def main() -> None:
    """Measure, if that is asked for, and draw."""
    if "--run" in sys.argv:
        runs = {
            "without": asyncio.run(measure(lock=False)),
            "lock": asyncio.run(measure(lock=True)),
        }
        DATA.write_text(json.dumps(runs) + "\n")
    draw(json.loads(DATA.read_text()))


if __name__ == "__main__":
    main()
