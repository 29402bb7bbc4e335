"""Folders that a command is to write into or to read, looked at before its work begins."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from alignprune.errors import ExistingFile, ValueMistake


def refuse_unwritable(name: str, folder: Path) -> None:
    """Refuse a folder that cannot be made or written into; none is made.

    Args:
        name: of the option that gives it.
        folder: it need not be there, nor the folders above it.

    Raises:
        FileExistsError: if it, or what should be a folder above it, is a file.
        ValueError: if the system does not let files be made there.
    """
    there = next(place for place in (folder, *folder.absolute().parents) if os.path.lexists(place))
    if not there.is_dir():
        raise ExistingFile(
            f"{name}={str(folder)!r} is to be a folder, but {str(there)!r} is none, expected one or nothing there: "
            f"choose another with --{name}"
        )
    try:
        with tempfile.TemporaryFile(dir=there):  # without a name, where the system can do that: nothing to leave behind
            pass
    except OSError as error:
        raise ValueMistake(
            f"{name}={str(folder)!r} cannot be written, since {str(there)!r} does not let it ({error.strerror}), "
            f"expected a folder that does: choose another with --{name}"
        ) from error


def refuse_file(name: str, folder: Path) -> None:
    """Refuse a file in the place of a folder to read; one that is not there is empty.

    Args:
        name: of the option that gives it.
        folder: to be read.

    Raises:
        FileExistsError: if it is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise ExistingFile(f"{name}={str(folder)!r} is a file, expected a folder: choose another with --{name}")
