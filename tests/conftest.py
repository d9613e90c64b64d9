"""Settings that all tests share."""

import os

from hypothesis import HealthCheck, settings

# Time limits of single examples measure the machine's other work, not ours.
# In CI the same examples run every time: a change is judged by what it changes.
settings.register_profile(
    "untimed",
    deadline=None,
    derandomize=bool(os.environ.get("CI")),
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("untimed")
