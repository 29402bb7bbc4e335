"""JSON, arrays, tensors and bytes in files that are whole or absent; those that a run is made of are sealed."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np

from alignprune._files import Kind, check_seal, replace_file, write_arrays, write_sealed, write_tensors
from alignprune.errors import DamagedFile, MissingFile

SEAL = "seal"
"""The field of a record that holds its seal."""


def write_json(path: Path, value: Any) -> None:
    """Write JSON whole or not at all; NaN becomes null."""
    save_bytes(path, _text(value))


def read_json(path: Path, expected: str, remedy: str) -> dict[str, Any]:
    """The object in a JSON file that a person may have written.

    Args:
        path: the file.
        expected: what it should be, for the message.
        remedy: what to do if it is not.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it holds no JSON object.
    """
    if not path.exists():
        raise MissingFile(f"path={str(path)!r} is not there, expected {expected}: {remedy}")
    if not path.is_file():
        raise DamagedFile(f"path={str(path)!r} is a folder, expected {expected}: {remedy}")
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:  # of JSON or of the encoding
        raise DamagedFile(f"path={str(path)!r} is no JSON ({error}), expected {expected}: {remedy}") from error
    if not isinstance(found, dict):
        raise DamagedFile(
            f"path={str(path)!r} holds {type(found).__name__}, not names and values, expected {expected}: {remedy}"
        )
    return {name: value for name, value in found.items() if name != SEAL}


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
    return read_json(path, kind.noun, kind.remedy)


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
