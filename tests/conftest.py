"""Settings that all tests share."""

import os
import signal

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

# A shell that runs this in the background has it ignore Ctrl-C, and so would what is tested.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
