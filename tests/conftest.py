"""Settings that all tests share."""

from hypothesis import HealthCheck, settings

# Time limits of single examples measure the machine's other work, not ours.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")
