"""JSON, arrays, tensors and bytes in files that are whole or absent."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from alignprune._files import replace_file


def write_json(path: Path, value: Any) -> None:
    """Write JSON whole or not at all; NaN becomes null."""
    text = json.dumps(plain(value), indent=2) + "\n"
    save_bytes(path, text.encode())


def save_arrays(path: Path, **arrays: np.ndarray) -> None:
    """Write an .npz file whole or not at all."""
    save: Any = np.savez_compressed  # its stub takes every name for its own allow_pickle
    _write(path, lambda file: save(file, **arrays))


def save_tensors(path: Path, value: Any) -> None:
    """Write with torch.save, whole or not at all."""
    _write(path, lambda file: torch.save(value, file))


def save_bytes(path: Path, content: bytes) -> None:
    """Write bytes whole or not at all."""
    _write(path, lambda file: file.write(content))


def _write(path: Path, write: Callable[[IO[bytes]], object]) -> None:
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
