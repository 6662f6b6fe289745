"""Runtime injection into HTTP and WebSocket views of Starlette and FastAPI."""

from grelmicro.starlette._fastapi import Provided
from grelmicro.starlette._install import install
from grelmicro.starlette._problems import Problem, add_problems
from grelmicro.starlette._routes import InstallError
from grelmicro.starlette._views import inject, streaming

__all__ = ["InstallError", "Problem", "Provided", "add_problems", "inject", "install", "streaming"]
