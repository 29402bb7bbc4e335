"""The state of a Pruner: what it has to hold, and what is refused before anything is changed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from alignprune._tensors import check_tensors
from alignprune.errors import TypeMistake, ValueMistake
from alignprune.memory.contract import Memory

STATE_VERSION = 5

_NAMES = (
    *(
        "num_samples",
        "method",
        "labels",
        "epoch",
        "read",
        "refreshed",
        "largest",
        "selection",
        "losses",
        "faults",
        "predicted",
    ),
    *("kinds", "memories", "reference", "scores", "nonfinite", "forward_passes"),
)


def check_state(state: Any, num_samples: int, epochs: int, method: Mapping[str, Any], labels: int) -> None:
    """Refuse what is no state, or one of another run.

    Args:
        state: what was given.
        num_samples, epochs: of this pruner.
        method: its settings, by name.
        labels: fingerprint of its labels, 0 = none.

    Raises:
        TypeMistake, ValueMistake: naming what differs.
    """
    if not isinstance(state, dict) or not state:
        raise TypeMistake(
            f"state={state!r:.60} is no state of a Pruner, expected what pruner.state_dict() returned: pass that part "
            "of the checkpoint"
        )
    if state.get("version") != STATE_VERSION:
        raise ValueMistake(
            f"the state has format version {state.get('version')!r}, expected {STATE_VERSION}: load it with the "
            "release of alignprune that saved it"
        )
    missing = [name for name in _NAMES if name not in state]
    if missing:
        raise ValueMistake(
            f"the state lacks {', '.join(missing)}, expected all that pruner.state_dict() returned: load the whole of "
            "it"
        )
    if state["num_samples"] != num_samples:
        raise ValueMistake(
            f"the state is of a data set of {state['num_samples']} samples, expected {num_samples}, this pruner's: "
            "load it into a pruner made for the same data set"
        )
    for name, here in method.items():
        given = state["method"].get(name)
        if given != here:
            raise ValueMistake(
                f"the state was saved with {name}={given}, expected {name}={here}, this pruner's: make the pruner with "
                f"the settings of the saved run"
            )
    if state["labels"] != labels:
        saved, here = (
            "other labels" if mark and labels and state["labels"] else "labels" if mark else "no labels"
            for mark in (state["labels"], labels)
        )
        raise ValueMistake(
            f"the state was saved with {saved}, expected it with {here}, as this pruner: make the pruner with the "
            "labels of the saved run"
        )
    if not isinstance(state["epoch"], int) or not 0 <= state["epoch"] <= epochs:
        raise ValueMistake(
            f"the state is of epoch {state['epoch']!r}, expected one of 0 to {epochs}: it is damaged, load another "
            f"checkpoint"
        )
    by_sample = torch.full((num_samples,), math.nan, dtype=torch.float32)
    check_tensors("state", state, {"reference": torch.empty(epochs + 1, dtype=torch.float64), "scores": by_sample})
    if state["losses"] is not None:
        check_tensors("state", state, {"losses": by_sample})
    if state["predicted"] is not None:
        check_tensors("state", state, {"predicted": by_sample.to(torch.int32)})


def check_memories(state: Mapping[str, Any], memories: Sequence[Memory]) -> None:
    """Refuse a state whose memories do not fit these."""
    if len(state["memories"]) != len(memories):
        raise ValueMistake(
            f"the state has {len(state['memories'])} memories, expected {len(memories)}: make the pruner with the "
            f"settings of the saved run"
        )
    for memory, of_memory in zip(memories, state["memories"], strict=True):
        memory.check_state_dict(of_memory)
