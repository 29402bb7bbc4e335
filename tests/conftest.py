"""Property tests explore anew on every run of a developer, and run the same examples in CI."""

import os

from hypothesis import settings

# Before torch is imported: tests work on small tensors, on which threads cost more than they give.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# No deadlines: how long an example takes says how busy the machine is, not whether the code is right.
settings.register_profile("here", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "here")
