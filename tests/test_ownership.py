"""Ranks that own parts are one run: the same samples as in a single process, and none remembers them all."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import alignprune as ap
import launch
from alignprune.ownership import Hashed, Ownership, ownership_of

# This file is also the program of the ranks (see the end): three train and save, two go on.

needs_ranks = pytest.mark.skipif(
    not torch.distributed.is_available(), reason="this torch is built without distributed"
)

WORLD, FEWER, N, EPOCHS, BATCH = 3, 2, 307, 9, 16
TABLE = torch.rand(EPOCHS, N, generator=torch.Generator().manual_seed(0)) + 0.1
TABLE[2, 7] = TABLE[4, 20:26] = float("nan")
LABELS = torch.arange(N) * 7 % 5 + 10
RANGES = [[(0, 40), (290, 307)], [(40, 55)], [(55, 200), (200, 290)]]
STOP = (5, 2)  # a state is saved in this epoch, after as many batches of each rank

METHODS: dict[str, dict[str, Any]] = {
    "full": {},
    "infobatch": {},
    "infobatch+das": {"window": 4},
    "seta+das": {"window": 4, "groups": 3, "alpha": 0.7},
    "ies": {"smoothing": 1, "threshold": 0.5},
    "dynamic-random": {"prune_ratio": 0.37},
    "rs2": {"prune_ratio": 0.37},
    "orderdp": {"prune_ratio": 0.37},
    "rcap": {"prune_ratio": 0.37, "labels": LABELS},
    "repb": {"batches": 2},
    "infobatch+bls": {},
}
every_method = pytest.mark.parametrize("name", METHODS)
JUDGED = [name for name in METHODS if name != "repb"]  # whose windows are of other batches where ranks own parts


def make(name: str, ownership: Any) -> ap.Pruner:
    return ap.Pruner.from_preset(name, num_samples=N, epochs=EPOCHS, ownership=ownership, **METHODS[name])


def batches(order: list[int]) -> Iterator[Tensor]:
    for start in range(0, len(order), BATCH):
        yield torch.tensor(order[start : start + BATCH])


def train(pruner: ap.Pruner, stop: Callable[[ap.Pruner], None] | None = None) -> dict[int, dict[str, Any]]:
    """Train to the end with losses that are a function of (epoch, sample); what a rank shows of every epoch."""
    log: dict[int, dict[str, Any]] = {}
    for epoch in range(pruner.epoch, EPOCHS):
        order, selection = list(pruner.sampler), pruner.selection
        for done, index in enumerate(batches(order), 1):
            pruner.reduce(index, TABLE[epoch, index], predictions=(index + epoch) % 5 + 10)
            if stop is not None and (epoch, done) == STOP:
                stop(pruner)
        if pruner.score.needs_pruned:
            for index in batches(list(pruner.pruned_sampler)):
                pruner.record(index, TABLE[epoch, index])
        metrics = pruner.metrics()
        pruner.end_epoch(2.0 / (epoch + 1) if pruner.needs_reference else None)
        weights = torch.ones(len(selection)) if selection.weights is None else selection.weights
        log[epoch] = {
            "read": order,
            "weights": dict(zip(selection.indices.tolist(), weights.tolist(), strict=True)),
            "scores": dict(zip(pruner.samples.tolist(), pruner.scores.nan_to_num(-9.0).tolist(), strict=True)),
            "nonfinite": pruner.nonfinite,
            "selected": metrics["selected"],
            "share": metrics["pruned_share"],
            "thresholds": selection.thresholds,
            "forward_passes": pruner.forward_passes,
        }
    return log


def save(pruner: ap.Pruner, folder: Path) -> None:
    import torch.distributed.checkpoint as dcp

    dcp.save({"pruner": pruner.state_dict()}, checkpoint_id=folder)


def load(pruner: ap.Pruner, folder: Path) -> ap.Pruner:
    import torch.distributed.checkpoint as dcp

    state = {"pruner": pruner.state_dict()}
    dcp.load(state, checkpoint_id=folder)
    pruner.load_state_dict(state["pruner"])
    return pruner


# -------------------------------------------------------------------------- what every rank runs


def rank_main(folder: Path, rank: int, world: int) -> None:
    launch.join(folder, rank, world)
    out: dict[str, Any] = {}
    for name in METHODS:
        ownership = RANGES if world == WORLD and name == "infobatch" else "owned"
        saved = folder.parent / f"saved {name}"
        if world == WORLD:
            out[name] = train(make(name, ownership), lambda pruner, to=saved: save(pruner, to))
            out[f"{name}, resumed"] = train(load(make(name, ownership), saved))
        else:
            ownership = [RANGES[0], [*RANGES[1], *RANGES[2]]] if name == "infobatch" else "owned"
            out[name] = train(load(make(name, ownership), saved))
    launch.write(folder, rank, world, out)


# -------------------------------------------------------------------------- the tests


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("owned")


def found(folder: Path, world: int) -> list[dict[str, Any]]:
    place = folder / f"{world} ranks"
    place.mkdir()
    codes, said = launch.started(__file__, place, world, str(world))
    assert codes == [0] * world, said
    return [torch.load(place / f"rank{rank}.pt", weights_only=True) for rank in range(world)]


@pytest.fixture(scope="module")
def ranks(folder: Path) -> list[dict[str, Any]]:
    """What each of three ranks found."""
    return found(folder, WORLD)


@pytest.fixture(scope="module")
def fewer(folder: Path, ranks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What each of two ranks found that went on where the three had saved."""
    return found(folder, FEWER)


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    return {name: train(make(name, "replicated")) for name in METHODS}


def joined(ranks: list[dict[str, Any]], name: str, epoch: int, what: str) -> dict[int, float]:
    """What the ranks show of their samples, put together; each shows others."""
    out: dict[int, float] = {}
    for result in ranks:
        part = result[name][epoch][what]
        assert not out.keys() & part.keys()
        out |= part
    return out


@needs_ranks
@pytest.mark.parametrize("name", JUDGED)
def test_the_ranks_select_together_what_one_process_does(
    ranks: list[dict[str, Any]], alone: dict[str, Any], name: str
) -> None:
    for epoch, expected in alone[name].items():
        assert joined(ranks, name, epoch, "weights") == expected["weights"], epoch
        assert joined(ranks, name, epoch, "scores") == pytest.approx(expected["scores"], abs=1e-6)
        for result in ranks:
            for what in ("nonfinite", "selected", "share", "thresholds"):
                assert result[name][epoch][what] == pytest.approx(expected[what]), (epoch, what)


@needs_ranks
@every_method
def test_all_ranks_read_as_many_samples_and_together_the_selection(ranks: list[dict[str, Any]], name: str) -> None:
    for epoch in range(EPOCHS):
        parts = [result[name][epoch]["read"] for result in ranks]
        assert len({len(part) for part in parts}) == 1
        read = [sample for part in parts for sample in part]
        selected = sorted(joined(ranks, name, epoch, "weights"))
        assert sorted(set(read)) == selected
        assert len(read) == -(-len(selected) // WORLD) * WORLD  # fewer than there are ranks are read twice


@needs_ranks
@every_method
def test_ranks_go_on_in_the_middle_of_an_epoch_as_if_nothing_had_been(ranks: list[dict[str, Any]], name: str) -> None:
    for result in ranks:
        whole, rest = result[name], result[f"{name}, resumed"]
        assert rest[STOP[0]]["read"] == whole[STOP[0]]["read"][STOP[1] * BATCH :]
        assert rest[STOP[0]]["scores"] == whole[STOP[0]]["scores"]
        for epoch in range(STOP[0] + 1, EPOCHS):
            assert rest[epoch] == whole[epoch], epoch


@needs_ranks
@pytest.mark.parametrize("name", JUDGED)
def test_another_number_of_ranks_goes_on_with_the_same_samples(
    ranks: list[dict[str, Any]], fewer: list[dict[str, Any]], alone: dict[str, Any], name: str
) -> None:
    rest = [sample for result in fewer for sample in result[name][STOP[0]]["read"]]
    before = [sample for result in ranks for sample in result[name][STOP[0]]["read"][: STOP[1] * BATCH]]
    assert len({len(result[name][STOP[0]]["read"]) for result in fewer}) == 1
    assert sorted({*rest, *before}) == sorted(alone[name][STOP[0]]["weights"])
    assert len(rest) + len(before) <= len(alone[name][STOP[0]]["weights"]) + WORLD + FEWER
    for epoch in range(STOP[0] + 1, EPOCHS):
        assert joined(fewer, name, epoch, "weights") == alone[name][epoch]["weights"], epoch


if __name__ == "__main__":
    rank_main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
