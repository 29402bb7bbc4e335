"""Two hundred epochs: what a run holds at the end is what it held half-way, in memory, files and threads."""

from __future__ import annotations

import gc
import io
import os
import sys
import threading
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch.utils.data import TensorDataset

import alignprune as ap

N, BATCH, EPOCHS = 128, 64, 200
HALF = 100
X, Y = torch.randn(N, 4, generator=torch.Generator().manual_seed(0)), torch.arange(N) % 3
TABLE = torch.rand(EPOCHS, N, generator=torch.Generator().manual_seed(1)) + torch.where(
    torch.arange(N) % 4 == 0, 3.0, 0
)

OBJECTS, BLOCKS = 90, 490
"""By how much two moments 98 epochs apart may differ: less than one container, or five numbers, that an epoch kept.

The interpreter itself takes a block here and there, up to the 200th epoch or so, and none after it.
"""

CACHED = 8
"""How many times that with workers: torch keeps a list of what it has shared with them, and clears it now and then."""

FAMILIES: dict[str, dict[str, Any]] = {
    "full": {},
    "dynamic-random": {},
    "rs2": {},
    "orderdp": {},
    "repb": {},
    "rcap": {},
    "infobatch": {},
    "infobatch+das": {},
    "infobatch+bls": {},
    "seta+das": {"gaps": "last_obs"},
    "ies": {"threshold": 0.5},
    "divbs": {"prune_ratio": 0.9},
    "robust": {},
}


@dataclass
class Held:
    """What a process holds, in counts that a busy machine does not change, as it does the memory that the system sees.

    Tensors are counted with the bytes of their storages, whatever Python holds beside by its blocks.
    """

    blocks: int
    objects: int
    tensors: int
    storages: int
    files: int
    threads: int
    state: int

    @classmethod
    def now(cls, state: bytes) -> Held:
        gc.collect()
        blocks, objects = sys.getallocatedblocks(), gc.get_objects()
        # Sparse ones, which have no storage, are what other tests have left.
        tensors = [value for value in objects if type(value) is torch.Tensor and value.layout is torch.strided]
        storages = {value.untyped_storage().data_ptr(): value.untyped_storage().nbytes() for value in tensors}
        open_files = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
        counts = (len(tensors), sum(storages.values()), open_files, threading.active_count(), len(state))
        return cls(blocks, len(objects), *counts)


def run(name: str, workers: int) -> list[Held]:
    """A whole training with its state saved in every epoch; what is held half-way and at the end."""
    pruner = ap.Pruner.from_preset(name, num_samples=N, epochs=EPOCHS, labels=Y, delta=1.0, **FAMILIES[name])
    settings: dict[str, Any] = {"batch_size": BATCH, "num_workers": workers}
    if workers:
        settings |= {"persistent_workers": True, "multiprocessing_context": "fork"}
    data, held = TensorDataset(X, Y), []
    loader = pruner.loader(data, **settings)
    unseen = pruner.loader(data, pruned=True, **settings) if pruner.score.needs_pruned else []
    for epoch in range(EPOCHS):
        for index, (x, y) in loader:
            if isinstance(pruner.policy, ap.BatchPolicy):
                index = index[pruner.choose(index, logits=x[:, :3], features=x, labels=y)]
            losses = TABLE[epoch, index].requires_grad_()
            mean = pruner.reduce_batch(index, losses.mean()) if pruner.score.needs_batches else None
            (pruner.reduce(index, losses, predictions=y[: len(index)]) if mean is None else mean).backward()
        for index, _ in unseen:
            pruner.record(index, TABLE[epoch, index])
        pruner.end_epoch(1 / (epoch + 1) if pruner.needs_reference else None)
        buffer = io.BytesIO()
        torch.save(pruner.state_dict(), buffer)
        if epoch in (HALF, EPOCHS - 2):  # after the last epoch the sampler is empty
            held.append(Held.now(buffer.getvalue()))
    return held


@pytest.fixture(scope="module", autouse=True)
def warm() -> None:
    """What is imported and cached once, by whoever is the first, is no growth."""
    run("full", 0)
    gc.freeze()  # and what other tests have left is not looked at


@pytest.mark.parametrize("name, workers", [*((name, 0) for name in FAMILIES), ("ies", 2)])
def test_a_long_run_holds_at_its_end_what_it_held_half_way(name: str, workers: int) -> None:
    (half, end), room = run(name, workers), CACHED if workers else 1
    assert end.files == half.files
    assert end.threads == half.threads
    assert abs(end.tensors - half.tensors) <= 4  # an epoch without weights or suspects has fewer
    assert abs(end.storages - half.storages) <= 4 * 8 * N
    assert abs(end.objects - half.objects) <= room * OBJECTS
    assert abs(end.blocks - half.blocks) <= room * BLOCKS
    assert abs(end.state - half.state) <= 4 * 8 * N + 1_024
