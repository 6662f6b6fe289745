"""Another user's rights, for servers that refuse to run as root."""

import os
import shutil
import stat
import tempfile
from collections.abc import Sequence
from pathlib import Path

from grelmicro.testing.servers._ladder import ServerStartError

_NAME = "nobody"
_COPY = "programs"
_USUAL = ("/tmp", "/var/tmp", "/dev/shm")  # noqa: S108  # the folder made there is private


def other_user() -> tuple[int, int] | None:
    """The ids of the user and group to run as where we are root; None where we are not.

    Raises:
        ServerStartError: We are root and there is no such user.
    """
    if os.geteuid() != 0:
        return None
    import pwd  # where there is a root, there is this

    try:
        account = pwd.getpwnam(_NAME)
    except KeyError:
        raise ServerStartError(f"it refuses root, and there is no user {_NAME!r}") from None
    return account.pw_uid, account.pw_gid


def reachable_temp() -> str:
    """A folder for temporary files that any user can get to.

    Raises:
        ServerStartError: There is none.
    """
    for folder in (tempfile.gettempdir(), *_USUAL):
        if os.path.isdir(folder) and _is_reachable(Path(folder)):
            return folder
    raise ServerStartError(f"no folder for temporary files that the user {_NAME!r} can get to")


def _is_reachable(folder: Path) -> bool:
    path = folder.resolve()
    return all(place.stat().st_mode & stat.S_IXOTH for place in (path, *path.parents))


def owned_copy(
    programs: Path, copy: Sequence[str | Path], into: Path, owner: tuple[int, int]
) -> Path:
    """Copy folders, for `owner` to read, into one of ours.

    Args:
        programs: A folder in the first one to copy, or anywhere when there are none.
        copy: The folders.
        into: Where to; what is there already is kept.
        owner: The ids of a user and a group.

    Returns:
        Where the programs are now.
    """
    if not copy:
        return programs
    place = into / _COPY
    for folder in map(Path, copy):
        if not (place / folder.name).exists():
            shutil.copytree(folder, place / folder.name, symlinks=True)
    for found, _, names in os.walk(place):
        for name in ("", *names):
            os.chown(Path(found, name), *owner, follow_symlinks=False)
    first = Path(copy[0])
    return place / first.name / programs.relative_to(first)
