"""Where tables and bars are drawn: on a terminal as wide as it is, elsewhere as plain text, without escape codes or
cuts. What is drawn are texts, never markup: the name of a file may have brackets or colons in it.
"""

from __future__ import annotations

import sys
from typing import Any, TextIO

from rich.console import Console

_TEXT: dict[str, Any] = {"markup": False, "emoji": False, "highlight": False}


def console(stream: TextIO | None = None) -> Console:
    """The console of a stream; None for standard output as it is now."""
    file = sys.stdout if stream is None else stream
    if file.isatty():
        return Console(file=file, **_TEXT)
    return Console(file=file, width=10_000, color_system=None, force_terminal=False, **_TEXT)
