"""The state of a Pruner: what it has to hold, and what is refused before anything is changed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from alignprune._checks import described, integer
from alignprune._tensors import DAMAGED, check_finite, check_names, check_range, check_tensors
from alignprune.errors import TypeMistake, ValueMistake
from alignprune.memory.contract import Memory
from alignprune.recorder import FAULTS

STATE_VERSION = 7

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
        "steps",
    ),
    *("kinds", "memories", "reference", "scores", "nonfinite", "forward_passes"),
)

_COUNTS = ("labels", "read", "refreshed", "largest", "nonfinite", "forward_passes")


def check_state(
    state: Any, num_samples: int, size: int, epochs: int, method: Mapping[str, Any], labels: int, keeps_steps: bool
) -> None:
    """Refuse what is no state, or one of another run.

    Args:
        state: what was given.
        num_samples, epochs: of this pruner.
        size: samples that this rank remembers, all unless the ranks own parts.
        method: its settings, by name.
        labels: fingerprint of its labels, 0 = none.
        keeps_steps: whether it keeps the steps in which samples were read.

    Raises:
        TypeMistake, ValueMistake: naming what differs.
    """
    if not isinstance(state, dict) or not state:
        raise TypeMistake(
            f"state={described(state)} is no state of a Pruner, expected what pruner.state_dict() returned: pass that "
            f"part of the checkpoint"
        )
    if "tables" in state:
        raise ValueMistake(
            "the state is of ranks that own parts, expected one of ranks that remember all samples: make the pruner "
            "with the ownership of the saved run, and load by torch.distributed.checkpoint"
        )
    if _differ(state.get("version"), STATE_VERSION):
        raise ValueMistake(
            f"the state has format version {described(state.get('version'))}, expected {STATE_VERSION}: load it with "
            f"the release of alignprune that saved it"
        )
    check_names("the state", state, _NAMES)
    for name in _COUNTS:
        integer(f"state.{name}", state[name], at_least=0, remedy=DAMAGED)
    if _differ(state["num_samples"], num_samples):
        raise ValueMistake(
            f"the state is of a data set of {described(state['num_samples'])} samples, expected {num_samples}, this "
            f"pruner's: load it into a pruner made for the same data set"
        )
    check_names("state.method", state["method"], tuple(method))
    for name, here in method.items():
        given = state["method"][name]
        if _differ(given, here):
            shown = given if isinstance(given, str) else described(given)
            raise ValueMistake(
                f"the state was saved with {name}={shown}, expected {name}={here}, this pruner's: make the pruner with "
                f"the settings of the saved run"
            )
    if _differ(state["labels"], labels):
        saved, here = (
            "other labels" if mark and labels and state["labels"] else "labels" if mark else "no labels"
            for mark in (state["labels"], labels)
        )
        raise ValueMistake(
            f"the state was saved with {saved}, expected it with {here}, as this pruner: make the pruner with the "
            "labels of the saved run"
        )
    if type(state["epoch"]) is not int or not 0 <= state["epoch"] <= epochs:
        raise ValueMistake(
            f"the state is of epoch {described(state['epoch'])}, expected one of 0 to {epochs}: {DAMAGED}"
        )
    check_names("state.selection", state["selection"], ("num_samples",))
    if _differ(state["selection"]["num_samples"], size):
        raise ValueMistake(
            f"state.selection.num_samples={described(state['selection']['num_samples'])} does not fit, expected "
            f"{size}: {DAMAGED}"
        )
    by_sample = torch.full((size,), math.nan, dtype=torch.float32, device="cpu")
    check_tensors("state", state, {"reference": torch.empty(epochs + 1, dtype=torch.float64), "scores": by_sample})
    check_finite("state", state, ("reference", "scores"))
    if state["losses"] is not None:
        check_tensors("state", state, {"losses": by_sample})
        _check_faults(state["faults"])
    whole = torch.empty(size, dtype=torch.int32, device="cpu")
    if state["predicted"] is not None:
        check_tensors("state", state, {"predicted": whole})
    if keeps_steps and state["losses"] is not None:
        check_tensors("state", state, {"steps": whole})
        check_range("state", state, "steps", -1, num_samples - 1)
    elif state["steps"] is not None:
        raise ValueMistake(f"state.steps={described(state['steps'])} does not fit, expected None: {DAMAGED}")


def _check_faults(faults: object) -> None:
    """Refuse counts of faults but those of a run that was saved, which are 0: others are refused before it is."""
    if not isinstance(faults, list) or len(faults) != len(FAULTS) or not all(type(count) is int for count in faults):
        raise ValueMistake(f"state.faults={described(faults)} does not fit, expected {len(FAULTS)} counts: {DAMAGED}")
    if any(faults):
        raise ValueMistake(f"state.faults={described(faults)} does not fit, expected none: {DAMAGED}")


def check_memories(state: Mapping[str, Any], memories: Sequence[Memory]) -> None:
    """Refuse a state whose memories do not fit these."""
    given, here = state["memories"], [type(memory).__name__ for memory in memories]
    if not isinstance(given, list) or len(given) != len(memories):
        count = len(given) if isinstance(given, list) else described(given)
        raise ValueMistake(
            f"the state has {count} memories, expected {len(memories)}: make the pruner with the settings of the saved "
            f"run"
        )
    if _differ(state["kinds"], here):
        raise ValueMistake(f"state.kinds={described(state['kinds'])} does not fit, expected {here}: {DAMAGED}")
    for name, memory, of_memory in zip(here, memories, given, strict=True):
        check_names(name, of_memory, ())
        memory.check_state_dict(of_memory)


def _differ(given: object, here: object) -> bool:
    """Whether a value of a state is not the one that it has to be; a tensor, which compares by element, never is."""
    return type(given) is not type(here) or given != here
