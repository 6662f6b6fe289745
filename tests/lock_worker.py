"""One process of a fleet that fights for a lock: `python worker.py URL SPACE FOLDER SECONDS TASKS`.

The witness is a file that can only be made by one at a time, and that knows nothing of locks.
"""

import asyncio
import contextlib
import json
import os
import sys
from pathlib import Path
from time import monotonic
from typing import Any

from grelmicro.providers import from_url
from grelmicro.sync import Lock

URL, SPACE, FOLDER, SECONDS, TASKS = sys.argv[1:]
WITNESS = Path(FOLDER) / "inside"


class Witness:
    """Sees two inside at once."""

    def __init__(self) -> None:
        self._own = WITNESS.with_suffix(f".{os.getpid()}")
        self._own.write_text(str(os.getpid()))

    def __enter__(self) -> None:
        for _ in range(2):
            try:
                os.link(self._own, WITNESS)  # with its content: who is killed leaves no empty one
            except FileExistsError:
                self._accept_the_dead()
            else:
                return
        raise SystemExit("two are inside")

    def _accept_the_dead(self) -> None:
        """What a process leaves that was killed inside is no sign of life."""
        with contextlib.suppress(FileNotFoundError):
            pid = int(WITNESS.read_text())
            if not (Path(FOLDER) / str(pid)).exists():
                raise SystemExit(f"two are inside: {pid} and {os.getpid()}")
            WITNESS.unlink()

    def __exit__(self, *_: object) -> None:
        WITNESS.unlink()


async def main() -> None:
    provider: Any = from_url(URL)
    options = {"prefix": SPACE} if provider.short_name == "redis" else {"table_name": f"{SPACE}.l"}
    counts = [0] * int(TASKS)
    tokens: list[int] = []
    waits: list[float] = []
    async with provider, provider.sync(**options) as backend:
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        end = monotonic() + float(SECONDS)

        async def fight(number: int) -> None:
            lock = Lock("hot", backend=backend, lease_duration=1.0)
            while (asked := monotonic()) < end:
                async with lock as handle:
                    waits.append(monotonic() - asked)
                    with Witness():
                        tokens.append(handle.fencing_token)
                        await asyncio.sleep(0.001)
                    counts[number] += 1

        await asyncio.gather(*(fight(number) for number in range(int(TASKS))))
    assert tokens == sorted({*tokens}), "numbers that do not rise"
    print(json.dumps({"counts": counts, "tokens": tokens, "waits": waits}), flush=True)


asyncio.run(main())
