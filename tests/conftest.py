"""For all tests: a slow machine is no failure, so Hypothesis has no deadline."""

from hypothesis import settings

settings.register_profile("project", deadline=None)
settings.load_profile("project")
