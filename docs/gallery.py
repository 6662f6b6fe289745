"""Runs the examples, and writes the page that shows each with what it really printed.

    scripts/hatch run python docs/gallery.py

takes as long as they do, about a minute. The page remembers which sources it was made from; a test
says when those are others.
"""

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "examples.md"


class Entry(NamedTuple):
    """One example: what it shows, how it is run, and the source to read first."""

    folder: str
    title: str
    about: str
    arguments: str
    source: str


ENTRIES = (
    Entry(
        "catalogue",
        "A catalogue behind a cache",
        "A service on Starlette, whose origin takes 50 ms. A hundred requests come at once for a "
        "product that is not cached yet, and then customers browse, past the cache and through it.",
        "examples/catalogue/demo.py",
        "app.py",
    ),
    Entry(
        "workers",
        "Workers under one lock",
        "Processes count in one file under one lock, by plain reads and writes that lose updates "
        "without it. Two of them are killed while they hold the lock.",
        "examples/workers/demo.py --throwaway",
        "worker.py",
    ),
    Entry(
        "payments",
        "Payments, and a bank that falls ill",
        "Two replicas share a limiter and a breaker. More payments come in than may pass, and the "
        "bank fails for three seconds.",
        "examples/payments/demo.py --throwaway",
        "payments.py",
    ),
    Entry(
        "notes",
        "Notes, with injection",
        "A service with a transaction for each request, a live feed by WebSocket, and a cache: "
        "everything comes to the views by injection.",
        "examples/notes/demo.py",
        "service.py",
    ),
    Entry(
        "service",
        "Forked workers, replaced under load",
        "A service of three plugins, with two workers on a TCP and a Unix socket. While orders "
        "come in without a pause, its workers are replaced, one is sent away, and it stops.",
        "examples/service/demo.py",
        "orders/web.py",
    ),
    Entry(
        "grelmicro-sqlite",
        "A backend of one's own",
        "A distribution that adds a backend, one SQLite file, as anybody could publish it. Its "
        "tests of the file; the conformance kit holds it to the same promises as ours.",
        "-m pytest -q examples/grelmicro-sqlite/tests/test_file.py",
        "src/grelmicro_sqlite/cache.py",
    ),
)

HEAD = """<!-- Made by docs/gallery.py from {fingerprint}. -->

# Examples

Complete programs, which the tests run. What stands below each is what it printed when this
page was made, on a machine with two cores. `scripts/demo` runs the first five.
"""

SECTION = """
## {title}

{about}

```none
$ python {arguments}
{printed}
```

`examples/{folder}/{source}`:

<!-- not run: its own tests run it -->
```python notest
{code}
```
"""


def fingerprint() -> str:
    """What the examples are: the same as long as nobody changes a source of theirs."""
    files = sorted((ROOT / "examples").rglob("*.py"))
    sources = [file for file in files if "tests" not in file.relative_to(ROOT).parts]
    digest = hashlib.sha256(b"\0".join(file.read_bytes() for file in sources))
    return digest.hexdigest()[:16]


def printed(arguments: str) -> str:
    """Run it with this interpreter; what it printed."""
    environment = {n: v for n, v in os.environ.items() if not n.startswith("GRELMICRO_")}
    command = [sys.executable, *arguments.split()]
    done = subprocess.run(  # noqa: S603 - words of this file
        command, cwd=ROOT, env=environment, check=True, stdout=subprocess.PIPE, text=True
    )
    return "\n".join(line.rstrip() for line in done.stdout.rstrip().splitlines())


def main() -> None:
    """Write the page."""
    page = HEAD.format(fingerprint=fingerprint())
    for entry in ENTRIES:
        code = (ROOT / "examples" / entry.folder / entry.source).read_text().rstrip()
        page += SECTION.format(**entry._asdict(), printed=printed(entry.arguments), code=code)
    PAGE.write_text(page)


if __name__ == "__main__":
    main()
