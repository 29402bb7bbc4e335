"""Arrays that take seconds to compute, kept in files under a hash of all that they depend on."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from alignprune._files import Kind, read_arrays
from alignprune.bench.files import save_arrays
from alignprune.errors import DamagedFile, ValueMistake

CACHE_ROOT = "ALIGNPRUNE_CACHE"

_KIND = Kind("cache", 1, "it is computed again")

Arrays = dict[str, NDArray]


def cached(name: str, depends_on: Mapping[str, object], compute: Callable[[], Arrays]) -> Arrays:
    """Compute arrays once, and read them from the cache folder from then on.

    The folder is that of the environment variable ALIGNPRUNE_CACHE, else ~/.cache/alignprune; it may be deleted at
    any time. Where several processes ask at once, the ranks of a run among them, one computes and the others wait; if
    it fails or dies, the next of them computes. A damaged file is replaced, with a warning.

    Args:
        name: what the arrays are, the first part of the file's name.
        depends_on: everything that the arrays depend on, by name: arrays and files (`Path`) by their content, other
            values by their repr. Raise a version among them when the calculation changes.
        compute: computes the arrays.

    Returns:
        the arrays, by name.

    Raises:
        OSError: if the cache folder cannot be written.
    """
    file = _cache_folder() / f"{name}-{_digest(depends_on)[:32]}.npz"
    arrays = _stored(file)
    return _computed(file, compute) if arrays is None else arrays


def _stored(file: Path) -> Arrays | None:
    """The arrays of a file; None where there is none, or one that is damaged, which is removed."""
    if not file.exists():
        return None
    try:
        return read_arrays(file, _KIND)
    except (DamagedFile, ValueMistake) as error:
        warnings.warn(str(error), stacklevel=3)
        file.unlink(missing_ok=True)
        return None


def _computed(file: Path, compute: Callable[[], Arrays]) -> Arrays:
    """Compute the arrays and store them, unless another process does so first."""
    from filelock import FileLock  # here, since whoever caches nothing does without it

    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(file.with_suffix(".lock")):  # of which the system lets go when its process dies
        arrays = _stored(file)
        if arrays is None:
            arrays = compute()
            save_arrays(file, _KIND, **arrays)
    return arrays


def _cache_folder() -> Path:
    given = os.environ.get(CACHE_ROOT)
    return Path(given) if given else Path.home() / ".cache" / "alignprune"


def _digest(depends_on: Mapping[str, object]) -> str:
    """SHA-256 of names and values, in any order of the names."""
    total = hashlib.sha256()
    for name, value in sorted(depends_on.items()):
        if isinstance(value, Path):
            kind, content = "file", file_digest(value)
        elif isinstance(value, np.ndarray):
            kind = f"{value.dtype} {value.shape}"
            content = hashlib.sha256(np.ascontiguousarray(value).data).hexdigest()
        else:
            kind, content = type(value).__name__, repr(value)
        total.update(repr((name, kind, content)).encode())
    return total.hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content, as hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while part := file.read(2**20):
            digest.update(part)
    return digest.hexdigest()
