from grelmicro.testing.conformance import conform
from grelmicro_sqlite.conformance import subject

test_promises = conform(subject())
