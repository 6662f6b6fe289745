"""Runs programs one after the other, each in a process of its own: a request a line, as JSON.

Most of a short program's time goes into importing what is not ours. Here that is imported once, and
every program is a fork of this process, which imports grelmicro itself and ends as any other does.
"""

import ast
import asyncio
import contextlib
import faulthandler
import importlib
import inspect
import json
import os
import sys
import types
from typing import TypedDict

NOT_OURS = "asyncpg fastapi httpx orjson pydantic_settings pytest redis.asyncio uvicorn"
SECONDS = 30


class Request(TypedDict):
    """A program to run, the name that tracebacks give it, and where."""

    source: str
    name: str
    folder: str
    environment: dict[str, str]


def execute(source: str, name: str) -> None:
    """Run it as the main module; `await` at its top level is that of an event loop."""
    main = types.ModuleType("__main__")
    sys.modules["__main__"] = main
    code = compile(source, name, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    if not code.co_flags & inspect.CO_COROUTINE:
        exec(code, main.__dict__)
        return

    async def body() -> None:
        await eval(code, main.__dict__)

    asyncio.run(body())


def become(request: Request) -> None:
    """Turn this fork into the process that was asked for."""
    os.chdir(request["folder"])
    os.environ.update(request["environment"])
    for descriptor, path, flags in (
        (0, os.devnull, os.O_RDONLY),
        (1, "stdout", os.O_WRONLY | os.O_CREAT),
        (2, "stderr", os.O_WRONLY | os.O_CREAT),
    ):
        os.dup2(os.open(path, flags), descriptor)
    faulthandler.dump_traceback_later(SECONDS, exit=True)
    sys.path.insert(0, os.getcwd())


def main() -> None:
    """Answer each request with the exit status of its program."""
    for name in NOT_OURS.split():
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    for line in iter(sys.stdin.readline, ""):
        request: Request = json.loads(line)
        if not (child := os.fork()):
            become(request)
            execute(request["source"], request["name"])
            return
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
