"""The grid of the paper's claims: what differs in a block, and what its rows have in common."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from alignprune.bench.grid import claims, plan
from alignprune.bench.grid.cells import Cell
from alignprune.bench.grid.experiments import EXPERIMENTS, cells_of, protocol

PRETRAINED = protocol("pretrained")
CELLS = cells_of(EXPERIMENTS["claims"], PRETRAINED)

ABOUT = {
    "the score": {"method"},
    "half, static or dynamic": {"method", "prune_ratio", "coreset.epochs"},
    "reference samples": {"method", "reference_size"},
    "source of the reference": {"method", "reference"},
    "window": {"method", "score.window"},
    "correlation": {"method", "score.correlation"},
    "prune probability": {"method", "policy.prune_prob"},
}


def test_each_block_is_about_one_thing_on_one_data_set() -> None:
    blocks: dict[str, list[Cell]] = defaultdict(list)
    for cell in CELLS:
        blocks[cell.block].append(cell)
    assert set(blocks) == {f"{data}: {claim}" for data in ("NEWS", "CIFAR-100N") for claim in ABOUT}
    for name, cells in blocks.items():
        claim = name.partition(": ")[2]
        for cell in cells:
            assert set(cell.settings) - {"dataset", "recipe", "noise", "noise_rate"} <= ABOUT[claim], cell
        assert len({cell.settings["dataset"] for cell in cells}) == 1
        assert len({cell.key for cell in cells}) == len(cells)


def test_the_papers_default_stands_in_every_block_of_ours_and_is_run_once() -> None:
    ours = [cell for cell in CELLS if dict(cell.settings).get("method") == "infobatch+das"]
    clean = [cell for cell in ours if cell.block.startswith("NEWS") and cell.column == "clean"]
    default = [
        cell.block.partition(": ")[2]
        for cell in clean
        if set(cell.settings) == {"dataset", "recipe", "noise", "method"}
    ]
    assert sorted(default) == sorted(set(ABOUT) - {"half, static or dynamic"})
    assert len({cell.key for cell in clean}) == len(clean) - len(default) + 1


@pytest.mark.parametrize("name", ["SmallL", "Moderate"])
def test_a_pseudo_clean_reference_is_chosen_by_a_run_that_collects(name: str, tmp_path: Path) -> None:
    about = [cell for cell in CELLS if cell.block.endswith("source of the reference")]
    chosen = [cell for cell in about if cell.row == name and cell.column == "sym_0.2"]
    jobs = plan.jobs(chosen, PRETRAINED, [0], tmp_path)
    wanted: dict[str, Any] = {str(job.folder): job.settings for job in jobs}
    (needed,) = (wanted[str(folder)] for job in jobs for folder in job.needs)
    assert needed["method"] == "full"
    assert needed["collect"] is True


def test_other_protocols_have_no_claims() -> None:
    assert claims.claims(protocol("scratch")) == ()
