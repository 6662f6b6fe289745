"""Links the sources of all members into one folder, as installed wheels would lie: `.view/`.

Tools that read sources without importing them do not follow a namespace over several folders.
"""

import os
import shutil
from pathlib import Path

ROOT = Path(__file__).parents[2]


def link(view: Path) -> None:
    """Make the folder anew."""
    shutil.rmtree(view, ignore_errors=True)
    for tree in sorted([*ROOT.glob("packages/*/src"), ROOT / "tests-shared/src"]):
        for file in (each for each in tree.rglob("*") if each.suffix in {".py", ".typed"}):
            place = view / file.relative_to(tree)
            place.parent.mkdir(parents=True, exist_ok=True)
            if not place.exists():  # each tree has a py.typed of its own
                place.symlink_to(os.path.relpath(file, place.parent))


if __name__ == "__main__":
    link(ROOT / ".view")
