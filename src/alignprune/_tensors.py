"""What users hand over as tensors: which dtypes are integers, labels as names, states that fit."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alignprune._checks import described
from alignprune._ranks import Draws
from alignprune.errors import TypeMistake, ValueMistake
from alignprune.pool import Pool

INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
"""Dtypes that indices and class ids may have."""

FULL_PRECISION = (torch.float32, torch.float64)
"""Dtypes that are averaged as they are; others are averaged in float32."""

UNLABELLED = -100
"""The class id of a sample without a label: torch's default for ``ignore_index``."""

DAMAGED = "the state is damaged, load another checkpoint"
"""What to do about a state that no run can have."""

_PIECE = 16_384
_LARGEST = torch.finfo(torch.float32).max


def class_codes(labels: Any, num_samples: int, pool: Pool | None = None) -> tuple[Tensor, Tensor]:
    """Labels as codes 0 to C - 1 in the order of the names, so that nothing depends on what the classes are called.

    Predictions name classes otherwise: as the labels do where these are integers, and by the place of the name among
    all names in order, as folders are numbered, where they are strings.

    Args:
        labels: [N], integers of any width, strings or booleans: a tensor, an array, a list or a pandas Series, in its
            order whatever its index is. None (or -100 among integers) is a sample without a label.
        num_samples: size N of the data set.
        pool: the samples of all ranks, of which this one remembers n; None = it remembers all N.

    Returns:
        int32 [n], the codes, and int32 [n], the class ids that predictions are made in; -1 = unlabelled in both, and
        in the latter an integer that is no class id, being negative or beyond int32.

    Raises:
        TypeMistake, ValueMistake: for labels of another kind or number.
    """
    names = _names(labels)
    if names.shape != (num_samples,):
        raise ValueMistake(
            f"labels={names.dtype} {names.shape} is not one a sample, expected [{num_samples}]: the given label of "
            f"every sample, in the order of the data set"
        )
    if pool is not None and pool.shared:
        names = names[pool.samples()]
    if names.dtype.kind == "O":
        missing = np.array([name is None for name in names])
        kinds = {type(name).__name__ for name in names[~missing]}
    else:
        missing = names == UNLABELLED if names.dtype.kind == "i" else np.zeros(len(names), dtype=bool)
        kinds = set()
    if pool is not None and pool.shared:
        kinds = set().union(*pool.said(kinds))
    if len(kinds) > 1 or not kinds <= {"str", "int", "bool"}:
        raise TypeMistake(
            f"labels={' and '.join(sorted(kinds))} are no class names, expected integers or strings of one kind: map "
            f"them, and leave None where a sample has no label"
        )
    codes = np.full(len(names), -1, dtype=np.int32)
    known = names[~missing]
    if known.dtype.kind == "O":
        known = known.astype(str) if kinds == {"str"} else known.astype(np.int64)
    classes, inverse = np.unique(known, return_inverse=True)
    if pool is not None and pool.shared:
        own, classes = classes, np.unique(np.concatenate(pool.said(classes)))
        inverse = np.searchsorted(classes, own)[inverse]
    codes[~missing] = inverse.reshape(-1)
    ids = codes.copy()
    if classes.dtype.kind in "iub":
        ids[~missing] = np.where((known >= 0) & (known <= np.iinfo(np.int32).max), known, -1)
    return torch.from_numpy(codes), torch.from_numpy(ids)


def label_print(codes: Tensor, pool: Pool | None = None) -> int:
    """What tells labels from others, never 0.

    Args:
        codes: int32 [n], of `class_codes`.
        pool: the samples of all ranks, where these own parts: the print is the same whoever owns what. None = all.
    """
    if pool is None:
        return fingerprint(codes.numpy().tobytes())
    keys = Draws(0, 0).keys("labels", pool.samples()).astype(np.int64)
    total = pool.total(np.array([(keys * (codes.numpy().astype(np.int64) + 2)).sum()]))
    return fingerprint(total.tobytes())


def _names(labels: Any) -> np.ndarray[Any, Any]:
    if isinstance(labels, Tensor):
        labels = labels.detach().cpu()
    names = labels.to_numpy() if hasattr(labels, "to_numpy") else np.asarray(labels)
    if names.dtype.kind not in "iubUSO":
        raise TypeMistake(
            f"labels={names.dtype} {names.shape} are no class names, expected integers or strings: map them, and leave "
            f"labels out if there are none"
        )
    return np.asarray(names)


def pieces(size: int, device: torch.device) -> Iterator[slice]:
    """Slices of 0 to ``size``, so short on the host that all passes over a piece stay in cache."""
    step = _PIECE if device.type == "cpu" else max(1, size)
    return (slice(start, start + step) for start in range(0, size, step))


def indices_of(mask: Tensor) -> Tensor:
    """Where a mask is true, int64, ascending: on the host by numpy, which takes a fifth of the time of torch."""
    return torch.from_numpy(np.flatnonzero(mask.numpy())) if mask.is_cpu else mask.nonzero().flatten()


def bounded_(values: Tensor) -> Tensor:
    """Put what has overflowed back to the ends of float32, in place: an infinite sum is NaN a term later."""
    return values.clamp_(-_LARGEST, _LARGEST)


def check_names(owner: str, state: object, names: Sequence[str]) -> None:
    """Raise TypeMistake for what is no dict, and ValueMistake unless it has all of these names."""
    if not isinstance(state, dict):
        raise TypeMistake(f"{owner} is {type(state).__name__}, expected a dict: {DAMAGED}")
    missing = [name for name in names if name not in state]
    if missing:
        raise ValueMistake(
            f"{owner} lacks {', '.join(missing)}, expected all that state_dict() returned: load the whole of it"
        )


def check_tensors(owner: str, state: Mapping[str, Any], expected: Mapping[str, Tensor]) -> None:
    """Raise ValueMistake unless the state has every expected tensor, of that dtype and shape."""
    for name, like in expected.items():
        given = state.get(name)
        if not isinstance(given, Tensor) or given.dtype != like.dtype or given.shape != like.shape:
            raise ValueMistake(
                f"{owner}.{name}={described(given)} does not fit, expected {like.dtype} {tuple(like.shape)}: load the "
                f"state into a pruner made with the settings of the saved run"
            )
        if not is_plain(given):
            raise ValueMistake(f"{owner}.{name} is no plain tensor of numbers, expected one: {DAMAGED}")


def is_plain(tensor: Tensor) -> bool:
    """Whether a tensor is numbers that lie in memory one by one, and no step of a computation that has a gradient."""
    return not (tensor.is_meta or tensor.requires_grad or tensor.layout != torch.strided)


def check_finite(owner: str, state: Mapping[str, Any], names: Sequence[str]) -> None:
    """Raise ValueMistake if one of the tensors of a state, checked before, holds an infinite number; NaN may be."""
    for name in names:
        # A row at a time: the losses of a bank may be more than the memory holds.
        infinite = sum(int(row.isinf().sum()) for row in torch.atleast_2d(state[name]))
        if infinite:
            raise ValueMistake(f"{owner}.{name} holds {infinite} infinite numbers, expected none: {DAMAGED}")


def check_range(owner: str, state: Mapping[str, Any], name: str, low: int, high: int) -> None:
    """Raise ValueMistake if an integer tensor of a state, checked before, reaches outside of low to high."""
    given = state[name]
    if len(given) and not low <= int(given.min()) <= int(given.max()) <= high:
        raise ValueMistake(
            f"{owner}.{name} reaches from {int(given.min())} to {int(given.max())}, expected {low} to {high}: {DAMAGED}"
        )


def fingerprint(content: bytes) -> int:
    """63 bits of a hash, never 0."""
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little") >> 1 | 1
