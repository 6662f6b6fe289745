"""Names of tables, as they are given and as they stand in a statement."""

import re

__all__ = ["quoted_table"]

_PART = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

_LONGEST = 63
"""Characters of a name; the server would cut a longer one, and two could meet."""


def quoted_table(name: object, *, suffix: str = "") -> tuple[str, str]:
    """Return a table's name for a statement, and the name of something that belongs to it.

    Args:
        name: `table` or `schema.table`.
        suffix: What the other name has after the table's.

    Raises:
        ValueError: It is no such name, or too long.
    """
    parts = name.split(".") if isinstance(name, str) else []
    if len(parts) not in (1, 2) or not all(map(_PART.fullmatch, parts)):
        raise ValueError(
            "table_name: expected a name, or schema.name, of ASCII letters, digits and _"
        )
    most = _LONGEST - len(suffix)
    if len(parts[-1]) > most or len(parts[0]) > _LONGEST:
        raise ValueError(f"table_name: a table's name has at most {most} characters here")
    return ".".join(f'"{part}"' for part in parts), f'"{parts[-1]}{suffix}"'
