"""Hypothesis without deadlines: on a busy machine a slow example is not a failure."""

from hypothesis import settings

settings.register_profile("penstock", deadline=None, max_examples=60, stateful_step_count=40)
settings.load_profile("penstock")
