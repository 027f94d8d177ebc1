"""Property tests are deterministic and untimed here; ``HYPOTHESIS_PROFILE=deep`` searches longer, and at random."""

import os

from hypothesis import settings

settings.register_profile("suite", derandomize=True, deadline=None, database=None, print_blob=True)
settings.register_profile("deep", deadline=None, max_examples=1000, stateful_step_count=100, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "suite"))
