"""Files that come with an installed package: weights and word vectors that an extra brings, and nothing here ships."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from alignprune.errors import MissingExtra


def is_installed(package: str) -> bool:
    """Whether a package is there; it is not imported."""
    return importlib.util.find_spec(package) is not None


def folder_of(package: str, otherwise: str) -> Path:
    """The folder of an installed package, which is not imported.

    Args:
        package: by the name of its import.
        otherwise: what is missing without it, what is expected, and what to do.

    Raises:
        ImportError: with that text, if it is not installed.
    """
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise MissingExtra(otherwise)
    return Path(found.origin).parent
