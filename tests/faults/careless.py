"""A writer as none should be, for the tests of the campaign itself."""

from __future__ import annotations

import os


def write(words: list[str]) -> int:
    """Write one file in its place, and another in two parts that a rename puts there, where it is not there yet."""
    with open("first", "w") as file:
        file.write("whole")
    if not os.path.exists("second"):
        with open("second.part", "w") as file:
            file.write("half")
            file.flush()
            file.write("half")
        os.rename("second.part", "second")
    return 0
