"""Losses that keep a row of every sample, on two ranks: `sync` makes them one run.

This file is also the program of the ranks (see the end).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import launch
from alignprune.losses import ELRSettings, LossSettings, RowLoss, SampleLoss, SOPSettings

WORLD, BATCH = 2, 4
N, C = 40, 6

SETTINGS: dict[str, LossSettings] = {
    "sop": SOPSettings(lr_u=2.0, lr_v=3.0),
    "elr": ELRSettings(beta=0.7, weight=3.0),
    "elr in float16": ELRSettings(beta=0.7, weight=3.0, targets="float16"),
}


def begun(settings: LossSettings) -> SampleLoss:
    """A loss whose rows are anywhere in [0, 1)."""
    loss, generator = settings.make(N, C), torch.Generator().manual_seed(5)
    assert isinstance(loss, RowLoss)
    with torch.no_grad():
        for rows in loss.rows:
            rows.copy_(torch.rand(rows.shape, generator=generator))
    return loss


def logits_of(index: Tensor) -> Tensor:
    return torch.randn(N, C, generator=torch.Generator().manual_seed(2))[index]


def trained(loss: SampleLoss, parts: list[list[Tensor]]) -> dict[str, Tensor]:
    """The state after epochs of batches, each of which ends with `sync`."""
    optimizer = loss.make_optimizer()
    for part in parts:
        for index in part:
            out = loss(index, index % C, logits_of(index).requires_grad_())
            out.losses.mean().backward()
            if optimizer is not None:
                optimizer.step()
                optimizer.zero_grad()
        loss.sync()
    return {name: rows.clone() for name, rows in loss.state_dict().items()}


def epochs(rank: int | None) -> list[list[Tensor]]:
    """Three epochs of 32 of the samples; a rank reads every other sample of each batch, None reads all."""
    order = torch.Generator().manual_seed(7)
    whole_batches = [list(torch.randperm(N, generator=order)[:32].split(WORLD * BATCH)) for _ in range(3)]
    if rank is None:
        return whole_batches
    return [[index[rank::WORLD] for index in part] for part in whole_batches]


def main(folder: Path, rank: int) -> None:
    launch.join(folder, rank, WORLD)
    found: dict[str, Any] = {}
    for name, settings in SETTINGS.items():
        loss = begun(settings)  # both train on sample 3 and on one more each, and look at the other's
        with torch.no_grad():
            loss(torch.tensor([11 - rank]), torch.tensor([0]), torch.zeros(1, C))
        twice = trained(loss, [[torch.tensor([3, 10 + rank])]])
        found[name] = {"as one": trained(begun(settings), epochs(rank)), "twice": twice}
    launch.write(folder, rank, WORLD, found)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return launch.results(__file__, tmp_path_factory, WORLD)


pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch is built without distributed")


@pytest.mark.parametrize("name", SETTINGS)
def test_ranks_that_sync_are_one_run(name: str, ranks: list[dict[str, Any]]) -> None:
    first, second = (rank[name]["as one"] for rank in ranks)
    alone = trained(begun(SETTINGS[name]), epochs(None))
    for key, rows in alone.items():
        assert torch.equal(first[key], second[key])
        torch.testing.assert_close(first[key], rows)


@pytest.mark.parametrize("name", SETTINGS)
def test_rows_that_nobody_trained_on_stay_and_those_of_both_become_their_mean(
    name: str, ranks: list[dict[str, Any]]
) -> None:
    first, second = (rank[name]["twice"] for rank in ranks)
    start, alone = begun(SETTINGS[name]).state_dict(), begun(SETTINGS[name])
    for key, rows in start.items():
        assert torch.equal(first[key], second[key])
        assert (first[key] != rows).any(1).nonzero().squeeze(1).tolist() == [3, 10, 11]
        assert first[key].dtype == rows.dtype
    # a step of both ranks in one process: sample 3 moves by what each of them makes of it, which is the same here
    once = trained(alone, [[torch.tensor([3, 10])]])
    if name != "sop":
        torch.testing.assert_close(first["targets"][[3, 10]], once["targets"][[3, 10]])


def test_the_steps_of_a_rank_are_those_of_its_part_at_its_rates(ranks: list[dict[str, Any]]) -> None:
    halves = SOPSettings(lr_u=2.0 / WORLD, lr_v=3.0 / WORLD)
    once = trained(begun(halves), [[torch.tensor([3, 10])]])
    for key in ("u", "v"):
        torch.testing.assert_close(ranks[0]["sop"]["twice"][key][[3, 10]], once[key][[3, 10]])


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
