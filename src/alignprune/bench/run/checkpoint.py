"""What a run goes on from: the states of all its parts, and of the random generators that its ranks draw from."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import torch

from alignprune._ranks import rank_and_world
from alignprune.bench.run import ranks


class Stateful(Protocol):
    """A part of a run."""

    def state_dict(self) -> Any: ...

    def load_state_dict(self, state: Any) -> Any: ...


def collect(parts: Mapping[str, Stateful]) -> dict[str, Any]:
    """The states by name, tensors and plain values only, with those of every rank's generators; each rank calls it."""
    return {"random": ranks.of_all(_random_state())} | {name: part.state_dict() for name, part in parts.items()}


def restore(parts: Mapping[str, Stateful], state: Mapping[str, Any]) -> None:
    """Bring every part, and last the global generators, to what `collect` found.

    Ranks beyond those that there were draw as the first of them, as all do when a run begins.
    """
    for name, part in parts.items():
        part.load_state_dict(state[name])
    rank, _ = rank_and_world()
    _set_random_state(state["random"][rank % len(state["random"])])


def _random_state() -> dict[str, Any]:
    """The states of this rank's global generators, which augmentation and dropout draw from."""
    numpy_state: Any = np.random.get_state()
    kind, keys, position, has_gauss, gauss = numpy_state
    version, internal, gauss_next = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
        "numpy": [kind, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, gauss],
        "python": [version, torch.tensor(internal), gauss_next],
    }


def _set_random_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
    kind, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, gauss))
    version, internal, gauss_next = state["python"]
    random.setstate((version, tuple(torch.as_tensor(internal).tolist()), gauss_next))
