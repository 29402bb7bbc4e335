"""Property tests explore anew on every run of a developer, and run the same examples in CI."""

import os
import signal

from hypothesis import settings

# A shell starts what runs in the background with Ctrl-C ignored, which every process that a test starts would inherit.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# No deadlines: how long an example takes says how busy the machine is, not whether the code is right.
settings.register_profile("here", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "here")
