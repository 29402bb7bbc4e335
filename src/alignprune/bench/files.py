"""JSON, arrays, tensors and bytes in files that are whole or absent; those that a run is made of are sealed."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np

from alignprune._files import Kind, check_seal, replace_file, write_arrays, write_sealed, write_tensors

SEAL = "seal"
"""The field of a record that holds its seal."""


def write_json(path: Path, value: Any) -> None:
    """Write JSON whole or not at all; NaN becomes null."""
    save_bytes(path, _text(value))


def write_record(path: Path, kind: Kind, record: dict[str, Any]) -> None:
    """Write a sealed JSON object; NaN becomes null."""
    text = _text({**record, SEAL: kind.blank})
    path.parent.mkdir(parents=True, exist_ok=True)
    write_sealed(path, kind, lambda file: file.write(text))


def read_record(path: Path, kind: Kind) -> dict[str, Any]:
    """What `write_record` wrote.

    Raises:
        FileNotFoundError, ValueError: as `alignprune._files.check_seal`.
    """
    check_seal(path, kind)
    found: dict[str, Any] = json.loads(path.read_bytes())
    del found[SEAL]
    return found


def save_arrays(path: Path, kind: Kind, **arrays: np.ndarray) -> None:
    """Write a sealed and compressed .npz file; `alignprune._files.read_arrays` reads it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_arrays(path, kind, arrays, compressed=True)


def save_tensors(path: Path, kind: Kind, value: Any) -> None:
    """Write a sealed file of tensors and plain values; `alignprune._files.read_tensors` reads it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_tensors(path, kind, value)


def save_bytes(path: Path, content: bytes) -> None:
    """Write bytes whole or not at all."""
    save(path, lambda file: file.write(content))


def save(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write what ``write`` writes, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, write)


def plain(value: Any) -> Any:
    """A value as JSON has it: NaN and infinities become null, paths text."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _text(value: Any) -> bytes:
    return (json.dumps(plain(value), indent=2) + "\n").encode()
