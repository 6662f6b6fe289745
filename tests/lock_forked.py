"""A process that holds a lock in a thread and forks: `python lock_forked.py URL SPACE`."""

import asyncio
import os
import sys
import threading
from contextlib import AsyncExitStack
from types import SimpleNamespace
from typing import Any

from lock_fleet import Fleet

from grelmicro.sync import Lock

URL, SPACE = sys.argv[1:]


def child(lock: Lock) -> str:
    try:
        return repr(lock.from_thread.owned())
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def main() -> None:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()

    def run(coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result()

    stack = AsyncExitStack()
    kind = URL.partition(":")[0].removesuffix("ql")
    lock = Lock("cart", backend=run(Fleet(kind, SimpleNamespace(url=URL), SPACE, stack).backend()))
    with lock.from_thread:
        if not (pid := os.fork()):
            print(child(lock), flush=True)
            os._exit(0)
        os.waitpid(pid, 0)
        print("still owned:", lock.from_thread.owned(), flush=True)
    run(stack.aclose())
    loop.call_soon_threadsafe(loop.stop)


main()
