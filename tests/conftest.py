"""Property tests explore anew on every run of a developer, and run the same examples in CI."""

import os

from hypothesis import settings

# Before torch is imported: tests work on small tensors, on which threads cost more than they give.
os.environ.setdefault("OMP_NUM_THREADS", "1")

settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")
