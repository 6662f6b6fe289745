# ruff: noqa: E402  # the clock has to be wrong before anything else is imported
"""A process whose clock is an hour off, which counts under a lock: `... URL SPACE FOLDER HOURS`."""

import sys
import time

HOURS = float(sys.argv[4])
REAL = time.time
setattr(time, "time", lambda: REAL() + 3600 * HOURS)  # noqa: B010  # a type checker would object

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from types import SimpleNamespace

from lock_fleet import Fleet

from grelmicro.sync import Lock, LockTimeoutError

URL, SPACE, FOLDER = sys.argv[1:4]


async def main() -> None:
    kind = URL.partition(":")[0].removesuffix("ql")
    file = Path(FOLDER) / "count"
    async with AsyncExitStack() as stack:
        backend = await Fleet(kind, SimpleNamespace(url=URL), SPACE, stack).backend()
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        tokens = []
        for _ in range(40):
            async with Lock("cart", backend=backend, lease_duration=0.5) as handle:
                tokens.append(handle.fencing_token)
                count = int(file.read_text())
                await asyncio.sleep(0.001)
                file.write_text(str(count + 1))
        assert tokens == sorted({*tokens})
        async with Lock(f"own {HOURS}", backend=backend, lease_duration=30):
            try:
                await Lock(f"own {HOURS}", backend=backend)._acquire(asyncio.Future(), 0.2)
            except LockTimeoutError:
                print("counted", flush=True)


asyncio.run(main())
