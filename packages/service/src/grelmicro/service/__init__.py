"""A service made of plugins: `plugin`, `context`, `di`, `config`, `log`, `fork` and `asgi`.

Each module is a door of its own, and is imported when it is asked for.
"""

__all__: list[str] = []
