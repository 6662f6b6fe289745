"""What servers say of their roles, and sentinels of the servers."""

from grelmicro.testing.servers._resp import RespError
from grelmicro.testing.servers._server import Server
from grelmicro.testing.servers._wait import ask, info

SERVICE = "mymaster"


def role_of(server: Server) -> str | None:
    """Return `master`, `slave` if it is in sync, an empty text if not, None without an answer."""
    try:
        fields = info(server)
    except (OSError, RespError):
        return None
    return fields["role"] if fields.get("master_link_status", "up") == "up" else ""


def count_well(sentinel: Server, kind: str) -> int | None:
    """Return how many REPLICAS or SENTINELS it knows and finds well; None without an answer."""
    try:
        others = ask(sentinel, "SENTINEL", kind, SERVICE)
    except (OSError, RespError):
        return None
    assert isinstance(others, list)
    fields = [dict(zip(other[::2], other[1::2], strict=True)) for other in others]
    good = [one for one in fields if one[b"flags"] in (b"slave", b"sentinel")]
    return len([one for one in good if one.get(b"master-link-status", b"ok") == b"ok"])
