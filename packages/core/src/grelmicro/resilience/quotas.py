"""What a backend needs that keeps quotas of rate limiters: configurations in whole numbers.

`quota_of` makes a `Bucket` or a `Window` of a configuration. Both know what is left at a time
(`at`), what would be decided (`look`) and what was (`result`); `tag` names what is stored, so that
equal configurations share it. A store that counts in them admits exactly as many as it should,
after any number of calls: nothing drifts, and all numbers fit into a double.
"""

from grelmicro.resilience._quotas import Bucket, Quota, Window, quota_of

__all__ = ["Bucket", "Quota", "Window", "quota_of"]
