"""What two folders differ in, but for the times: how a disturbed run is judged against the undisturbed one.

Tensors, arrays and numbers are compared bit for bit. Every file counts, so one that stayed behind or is missing too.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

# How often a run was begun is no part of its result.
_OF_ATTEMPTS = {".lock", "log.txt", "checkpoint.previous.pt"}

_SEALS = {"seal", "metrics_digest"}  # of files that hold times


def differences(disturbed: Path, undisturbed: Path) -> list[str]:
    """What is otherwise, a line each: what stays behind or is missing, and in files by name what is in them."""
    ours, theirs = names(disturbed), names(undisturbed)
    found = [f"{name} is missing" for name in sorted(theirs - ours)]
    found += [f"{name} stays behind" for name in sorted(ours - theirs)]
    for name in sorted(ours & theirs):
        try:
            places = list(_otherwise(read(disturbed / name), read(undisturbed / name)))
        except Exception as error:  # whatever a damaged file makes its reader raise
            places = [f"cannot be read ({type(error).__name__}: {error})"]
        found += [f"{name}: {place}" for place in places[:1]]
    return found


def names(folder: Path) -> set[str]:
    """The files and the empty folders in a folder by their paths in it, without those of attempts."""
    found = [path for path in folder.rglob("*") if not path.is_dir() or not any(path.iterdir())]
    return {str(path.relative_to(folder)) for path in found if path.name not in _OF_ATTEMPTS and path.suffix != ".lock"}


def read(file: Path) -> Any:
    """The content of a file as plain values, without times."""
    kind = file.suffix
    if kind == ".json":
        return _timeless(json.loads(file.read_text()))
    if kind == ".jsonl":
        return [_timeless(json.loads(line)) for line in file.read_text().splitlines()]
    if kind == ".npz":
        with np.load(file, allow_pickle=False) as arrays:
            return dict(arrays)
    if kind == ".pt":
        return _timeless(torch.load(file, weights_only=True))
    if kind == ".parquet":
        import pandas

        return _timeless(pandas.read_parquet(file).to_dict("list"))
    return file.read_bytes()


def _timeless(value: Any) -> Any:
    """Without what says how long something took, when it was, or what a file was that says so."""
    if isinstance(value, dict):
        return {name: _timeless(item) for name, item in value.items() if not _is_time(name) and name not in _SEALS}
    if isinstance(value, (list, tuple)):
        return [_timeless(item) for item in value]
    return value


def _is_time(name: Any) -> bool:
    return isinstance(name, str) and ("second" in name or name == "date")


def _otherwise(one: Any, other: Any, place: str = "") -> Iterator[str]:
    """The places at which two values differ."""
    if type(one) is not type(other):
        yield f"{place} is {type(one).__name__}, not {type(other).__name__}"
    elif isinstance(one, dict):
        for name in one.keys() | other.keys():
            if name not in one or name not in other:
                yield f"{place}.{name} is in one of them"
            else:
                yield from _otherwise(one[name], other[name], f"{place}.{name}")
    elif isinstance(one, list):
        if len(one) != len(other):
            yield f"{place} has {len(one)} entries, not {len(other)}"
        for number, (ours, theirs) in enumerate(zip(one, other, strict=False)):
            yield from _otherwise(ours, theirs, f"{place}[{number}]")
    elif isinstance(one, (Tensor, np.ndarray)):
        if not _same_bits(one, other):
            yield f"{place} has other values"
    elif not (one == other or (isinstance(one, float) and math.isnan(one) and math.isnan(other))):
        yield f"{place} has another content" if isinstance(one, bytes) else f"{place} is {one!r}, not {other!r}"


def _same_bits(one: Any, other: Any) -> bool:
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    if isinstance(one, Tensor):
        return torch.equal(one.contiguous().view(-1).view(torch.uint8), other.contiguous().view(-1).view(torch.uint8))
    if one.dtype.hasobject:
        return bool((one == other).all())
    return one.tobytes() == other.tobytes()
