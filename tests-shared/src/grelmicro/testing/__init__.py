"""What tests of backends and of applications need, and no vendor's client.

- `grelmicro.testing.plugin`: the pytest plugin, loaded by its entry point: `redis_url`,
  `own_redis`, `fault_proxy` and others.
- `grelmicro.testing.servers`: real servers that are thrown away after use.
- `grelmicro.testing.proxy`: a TCP proxy that stalls, cuts and chops.
- `grelmicro.testing.conformance`: the promises of every backend, one clause each.

Nothing is imported here: pytest loads this package whenever it runs.
"""
