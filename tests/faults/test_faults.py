"""The short form of the campaign: a few tries of each kind, and that the campaign sees what it is for."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from faults import crashes, damage, full_disk, groups, kills, ranks, scenes
from faults.compare import differences
from faults.outcome import Outcome, table
from faults.processes import Stem
from faults.scenes import Scene, Stage

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the commands are forked")


@pytest.fixture(scope="module")
def stem() -> Iterator[Stem]:
    """One for all: it takes seconds to import what the commands need."""
    with Stem() as stem:
        yield stem


def check(outcome: Outcome, tried: int) -> None:
    assert outcome.tried >= tried
    assert not outcome.lost, "\n".join(outcome.notes)


# -- nothing is lost -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scene", [scenes.DIGITS, scenes.IMAGES], ids=lambda scene: scene.name)
def test_a_killed_run_ends_as_an_undisturbed_one(scene: Scene, stem: Stem, tmp_path: Path) -> None:
    check(kills.campaign(3, tmp_path / "scene", scene, stem=stem), 3)


def test_a_run_whose_ranks_are_killed_ends_as_an_undisturbed_one(stem: Stem, tmp_path: Path) -> None:
    check(ranks.campaign(1, tmp_path / "ranks", stem=stem), 1)


def test_a_killed_sweep_ends_as_an_undisturbed_one(stem: Stem, tmp_path: Path) -> None:
    check(groups.campaign(1, tmp_path / "sweep", groups.SWEEP, stem=stem), 1)


@pytest.mark.parametrize(
    "scene", [scenes.COLLECT, scenes.JOB, scenes.PREDICT, scenes.TABLE], ids=lambda scene: scene.name
)
def test_death_between_any_two_writes_loses_nothing(scene: Scene, stem: Stem, tmp_path: Path) -> None:
    check(crashes.campaign(3, tmp_path / "scene", scene, stem=stem), 3)


@pytest.mark.parametrize("scene", [scenes.COLLECT, scenes.JOB], ids=lambda scene: scene.name)
def test_a_full_disk_is_told_in_a_line_and_loses_nothing(scene: Scene, stem: Stem, tmp_path: Path) -> None:
    check(full_disk.campaign(3, tmp_path / "scene", scene, stem=stem), 3)


def test_a_file_that_may_not_grow_is_told_in_a_line_and_loses_nothing(stem: Stem, tmp_path: Path) -> None:
    check(full_disk.too_large(3, tmp_path / "scene", scenes.DIGITS, stem=stem), 3)


def test_a_small_file_system_is_told_in_a_line_and_loses_nothing(stem: Stem, tmp_path: Path) -> None:
    outcome = full_disk.mounted(2, tmp_path / "scene", scenes.DIGITS, stem=stem)
    if not outcome.tried:
        pytest.skip(outcome.fault)
    check(outcome, 2)


@pytest.mark.parametrize("state", [damage.FINISHED, damage.INTERRUPTED], ids=lambda state: state.name)
def test_a_damaged_file_is_named_or_does_no_harm(state: damage.State, stem: Stem, tmp_path: Path) -> None:
    check(damage.campaign(8, tmp_path / "state", state, stem=stem), 8)


# -- the campaign sees what it is for --------------------------------------------------------------------------


CARELESS = Scene("careless", (), resumes=False, function="faults.careless:write", overwrites=True)


def test_a_file_written_in_its_place_is_lost_to_a_crash(stem: Stem, tmp_path: Path) -> None:
    outcome = crashes.campaign(100, tmp_path / "scene", CARELESS, stem=stem)
    assert outcome.tried == 1 + 2  # the look at how files come to their places, the opening and the write
    assert outcome.lost == 2
    assert "first is written in its place" in outcome.notes[0]
    assert "at once first" in outcome.notes[1]


def test_a_full_disk_that_shows_a_traceback_is_a_loss(stem: Stem, tmp_path: Path) -> None:
    outcome = full_disk.campaign(100, tmp_path / "scene", CARELESS, stem=stem)
    assert outcome.lost == outcome.tried == 4
    assert "shows a traceback: OSError: [Errno 28]" in outcome.notes[0]
    assert "at once first" in "\n".join(outcome.notes)


def test_every_change_of_the_disk_is_counted(stem: Stem, tmp_path: Path) -> None:
    stage = Stage(CARELESS, tmp_path / "scene", stem)
    for file in stage.undisturbed.iterdir():
        file.unlink()
    kinds = [(change.kind, change.target.name) for change in crashes.counted(stage)]
    first, second = [("open", "first"), ("write", "first")], [("open", "second"), *[("write", "second")] * 2]
    assert kinds == [*first, *second, ("os.rename", "second")]


def test_a_bit_a_file_more_and_a_file_less_are_differences(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for place in (one, other):
        place.mkdir()
        (place / "result.json").write_text(f'{{"accuracy": 0.5, "train_seconds": {random.random()}}}')
        np.savez(place / "trace.npz", losses=np.array([1.0, np.nan]))
        torch.save({"pruner": [torch.tensor([1.0, float("nan")])]}, place / "checkpoint.pt")
    assert differences(one, other) == []
    (one / "result.json").write_text('{"accuracy": 0.25}')
    np.savez(one / "trace.npz", losses=np.array([np.nextafter(1.0, 2.0), np.nan]))
    torch.save({"pruner": [torch.tensor([-0.0, float("nan")])]}, one / "checkpoint.pt")
    torch.save({"pruner": [torch.tensor([0.0, float("nan")])]}, other / "checkpoint.pt")
    (one / ".checkpoint.pt.7").touch()
    (other / "model.json").touch()
    assert differences(one, other) == [
        "model.json is missing",
        ".checkpoint.pt.7 stays behind",
        "checkpoint.pt: .pruner[0] has other values",
        "result.json: .accuracy is 0.25, not 0.5",
        "trace.npz: .losses has other values",
    ]


def test_the_table_adds_up() -> None:
    rows = [Outcome("killed: a", 1_000, 999, 1, ("run7: gone",)), Outcome("damaged: b", 2, 2, 0)]
    assert table(rows).splitlines() == [
        "| fault      | tried | survived | lost |",
        "| ---------- | ----: | -------: | ---: |",
        "| killed: a  | 1,000 |      999 |    1 |",
        "| damaged: b |     2 |        2 |    0 |",
        "| all        | 1,002 |    1,001 |    1 |",
    ]
