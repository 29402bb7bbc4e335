"""Where tables are printed: on a terminal as wide as it is, elsewhere as plain text, without escape codes or cuts."""

from __future__ import annotations

import sys

from rich.console import Console


def console() -> Console:
    """The console of standard output as it is now."""
    if sys.stdout.isatty():
        return Console()
    return Console(width=10_000, color_system=None, force_terminal=False)
