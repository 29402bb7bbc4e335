"""What a training knows of every sample, read from a `Pruner` or from its stored state, as NumPy arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alignprune._state import STATE_VERSION
from alignprune.errors import TypeMistake, ValueMistake
from alignprune.pruner import Pruner

_Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Facts:
    """One run's facts of N samples.

    Attributes:
        suspicion: float32 [N], how suspect a label is by all losses, high = suspect; NaN = never seen.
        held_out: float32 [N], the loss by which a sample is judged: of late, while it was not trained on; NaN = none.
        first_flagged: int32 [N], epoch from 0, -1 = never.
        times_trained: int32 [N], epochs.
        times_held_out: int32 [N], epochs.
        mean_loss: float32 [N], over the run; NaN = none.
        held_out_loss: float32 [N], over the run; NaN = none.
        predictions: int32 [N], epochs in which a class was predicted.
        agreeing: int32 [N], those in which it was the given one.
        alternative: int32 [N], class id that was predicted most of the others; -1 = none.
        agreement: float32 [N], how often the given class was predicted of late, while the sample was not trained on, in
            [0, 1]; NaN = nothing was predicted then.
        epochs: that the run has done.
        labels: fingerprint of the given labels, 0 = none.
    """

    suspicion: _Array
    held_out: _Array
    first_flagged: _Array
    times_trained: _Array
    times_held_out: _Array
    mean_loss: _Array
    held_out_loss: _Array
    predictions: _Array
    agreeing: _Array
    alternative: _Array
    agreement: _Array
    epochs: int
    labels: int

    def __len__(self) -> int:
        return len(self.suspicion)


def facts(source: Pruner | Mapping[str, Any]) -> Facts:
    """Read the facts of a run.

    Args:
        source: the pruner, in training or after it, or what its `state_dict` returned.

    Raises:
        TypeMistake, ValueMistake: for what is neither, and for a run that kept no journal.
    """
    if isinstance(source, Pruner) and len(source.samples) < source.num_samples:
        raise ValueMistake(
            f"source is a Pruner of a rank that owns {len(source.samples)} of {source.num_samples} samples, expected "
            f"all: load the checkpoint in one process, into a pruner with ownership='owned'"
        )
    state = source.part_state() if isinstance(source, Pruner) else source
    if not isinstance(state, Mapping) or not {"kinds", "memories", "epoch"} <= set(state):
        raise TypeMistake(
            f"source={type(source).__name__} is no Pruner and no state of one, expected either: pass the pruner, or "
            "what pruner.state_dict() returned"
        )
    if state.get("version") != STATE_VERSION:
        raise ValueMistake(
            f"the state has format version {state.get('version')!r}, expected {STATE_VERSION}: read it with the "
            "release of alignprune that saved it"
        )
    memories = dict(zip(state["kinds"], state["memories"], strict=True))
    if "Journal" not in memories:
        raise ValueMistake(
            "source holds no journal, expected one, since a label report is made of it: make the pruner with the given "
            "labels, Pruner(..., labels=train_labels), or with journal=True"
        )
    if state["epoch"] == 0:
        raise ValueMistake("source has no finished epoch, expected one at least: report after pruner.end_epoch()")
    journal = {name: tensor.numpy() for name, tensor in memories["Journal"].items()}
    suspicion, held_out = journal["mean_loss"], journal["held_out_loss"]
    agreement = np.full(len(suspicion), np.nan, dtype=np.float32)
    if (ledger := memories.get("Ledger")) is not None:
        weight = ledger["weight"].numpy()
        suspicion = np.divide(ledger["total"].numpy(), weight, out=np.full_like(weight, np.nan), where=weight > 0)
        held_out, agreement = ledger["held_out"].numpy(), ledger["agreement"].numpy()
    return Facts(
        suspicion=suspicion,
        held_out=held_out,
        first_flagged=journal["first_flagged"],
        times_trained=journal["trained"],
        times_held_out=journal["held_out"],
        mean_loss=journal["mean_loss"],
        held_out_loss=journal["held_out_loss"],
        predictions=journal["predictions"],
        agreeing=journal["agreeing"],
        alternative=journal["alternative"],
        agreement=agreement,
        epochs=int(state["epoch"]),
        labels=int(state["labels"]),
    )
