"""The code fences of the READMEs and of `docs/`, read by Sybil, and the programs they make up.

Sybil, and not pytest-examples: it reads a fence's whole info string and every language, so commands
and configuration are looked at as well as Python, and it leaves the running to us. pytest-examples
runs a fence inside the process of the tests, and wants what is printed in comments of the code,
where readers would copy it.

A `python` fence is a program: it runs in a process of its own with warnings as errors, and prints
what the `text` fence right after it says, if there is one. One with `def test_` in it is a file of
tests. `await` may stand at the top level. What its info string says after the language:

- `title="prices.py"`: a name shown above it;
- `continues`: it belongs to the program that the fence before it is part of;
- `notest`: it is not run. A comment right before it says why: `<!-- not run: needs a cluster -->`.
"""

import ast
import inspect
import re
import textwrap
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from sybil import Document, Example, Region
from sybil.parsers.markdown.lexers import RawFencedCodeBlockLexer

ROOT = Path(__file__).parent.parent
SQLITE = ROOT / "examples/grelmicro-sqlite"
"""No member of the workspace: programs find it because we say where it is."""

READMES = [
    ROOT / "README.md",
    *ROOT.glob("packages/*/README.md"),
    ROOT / "tests-shared/README.md",
    SQLITE / "README.md",
]
DOCUMENTS = [*READMES, ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/**/*.md"))]

WORDS = {"continues", "notest"}
_INFO = re.compile(r"(?P<info>[^\n]*)\n")
_TITLE = re.compile(r' title="([^"]+)"')
_REASON = re.compile(r"<!-- not run: .+? -->\s*\Z", re.DOTALL)


class Fence(NamedTuple):
    """One fenced block, where it stands, and what its info string says."""

    document: Path
    line: int
    title: str
    language: str
    words: frozenset[str]
    source: str
    has_reason: bool

    @property
    def place(self) -> str:
        """Its document and line, as tests are named after it."""
        return f"{self.document.relative_to(ROOT)}:{self.line}"


class Program(NamedTuple):
    """Fences that are run as one, and what they print where the document says so."""

    fences: list[Fence]
    prints: str

    @property
    def place(self) -> str:
        """Where it begins."""
        return self.fences[0].place

    @property
    def source(self) -> str:
        """The code, each line where it stands in the document, for what tracebacks show."""
        text = ""
        for fence in self.fences:
            text += "\n" * (fence.line - text.count("\n")) + fence.source
        return text

    @property
    def typed_source(self) -> str:
        """The code as type checkers take it, which want `await` in a function."""
        flags = compile(self.source, self.place, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT).co_flags
        if not flags & inspect.CO_COROUTINE:
            return self.source
        return "async def body() -> None:\n" + textwrap.indent(self.source, "    ")

    @property
    def is_test(self) -> bool:
        """Whether it is a file of tests."""
        return "def test_" in self.source


def _fences(document: Path) -> Iterator[Fence]:
    for region in _parsed(document):
        title = _TITLE.search(region.region.lexemes["info"])
        info = _TITLE.sub("", region.region.lexemes["info"]).split()
        yield Fence(
            document,
            region.line,
            title[1] if title else "",
            info[0] if info else "",
            frozenset(info[1:]),
            str(region.region.lexemes["source"]),
            bool(_REASON.search(region.document.text[: region.region.start])),
        )


def _parsed(document: Path) -> Iterable[Example]:
    def read(text: Document) -> Iterator[Region]:
        for region in RawFencedCodeBlockLexer(_INFO)(text):
            region.evaluator = _never
            yield region

    return Document.parse(str(document), read)


def _never(_: Example) -> None:
    raise AssertionError("programs are run by the tests")


def _programs(fences: list[Fence]) -> Iterator[Program]:
    program: Program | None = None
    for fence, following in pairwise([*fences, None]):
        if fence is None or fence.language != "python" or "notest" in fence.words:
            continue
        prints = following.source if following and following.language == "text" else ""
        if program and "continues" in fence.words:
            program = Program([*program.fences, fence], program.prints + prints)
        else:
            if program:
                yield program
            program = Program([fence], prints)
    if program:
        yield program


FENCES = {document: list(_fences(document)) for document in DOCUMENTS}
PROGRAMS = [program for fences in FENCES.values() for program in _programs(fences)]


def in_language(language: str) -> list[Fence]:
    """The fences in one language that are not left out."""
    every = [fence for fences in FENCES.values() for fence in fences]
    return [each for each in every if each.language == language and "notest" not in each.words]
