"""What is read from a run, against loops over all that the run saw."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import alignprune as ap
from alignprune import audit
from alignprune.audit import Facts
from alignprune.errors import TypeMistake, ValueMistake
from label_report import made


def check_equal(one: Facts, other: Facts) -> None:
    for name in (entry.name for entry in dataclasses.fields(Facts)):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)


def test_the_counts_and_means_are_those_of_a_loop_over_all_epochs() -> None:
    run = made(unlabelled=20)
    facts = audit.facts(run.pruner)
    trained = [set(selection.trained.tolist()) for _, _, selection in run.epochs]
    looked = [
        set(selection.indices.tolist()) - some for (_, _, selection), some in zip(run.epochs, trained, strict=True)
    ]
    flagged = [set() if s.suspects is None else set(s.suspects.tolist()) for _, _, s in run.epochs]
    assert sum(map(len, looked)) > 100
    for i in range(0, len(facts), 7):
        losses = {"trained": [], "looked": []}
        said = []
        for epoch, (row, predictions, _) in enumerate(run.epochs):
            if i in trained[epoch] or i in looked[epoch]:
                losses["trained" if i in trained[epoch] else "looked"].append(float(row[i]))
                said.append(int(predictions[i]))
        if run.given[i] < 0:  # its losses count nowhere
            losses = {"trained": [], "looked": []}
        both = losses["trained"] + losses["looked"]
        assert facts.times_trained[i] == len(losses["trained"])
        assert facts.times_held_out[i] == len(losses["looked"])
        assert facts.mean_loss[i] == pytest.approx(sum(both) / len(both) if both else math.nan, rel=1e-5, nan_ok=True)
        held = sum(losses["looked"]) / len(losses["looked"]) if losses["looked"] else math.nan
        assert facts.held_out_loss[i] == pytest.approx(held, rel=1e-5, nan_ok=True)
        assert facts.predictions[i] == len(said)
        assert facts.agreeing[i] == sum(one == run.given[i] for one in said)
        assert facts.first_flagged[i] == next((epoch for epoch, some in enumerate(flagged) if i in some), -1)
    assert facts.epochs == 30


def test_the_suspicion_of_robust_is_its_weighted_mean_and_the_loss_it_judges_by_the_one_held_out_of_late() -> None:
    run = made()
    facts = audit.facts(run.pruner)
    onset = run.pruner.selection.onset
    assert onset is not None
    total, weights = np.zeros(len(facts)), np.zeros(len(facts))
    exposures, held_out = np.zeros(len(facts)), np.full(len(facts), np.nan)
    for epoch, (row, _, selection) in enumerate(run.epochs):
        losses, trained = row.numpy().astype(np.float64), selection.trained.numpy()
        for i in selection.indices.tolist():
            weight = (1 + exposures[i]) ** -0.5
            total[i] += weight * (losses[i] - losses[trained].mean())
            weights[i] += weight
        if epoch > onset.epoch:
            for i in set(selection.indices.tolist()) - set(trained.tolist()):
                held_out[i] = losses[i] if np.isnan(held_out[i]) else (held_out[i] + losses[i]) / 2
        if epoch >= onset.epoch:
            exposures[trained] += 1
    np.testing.assert_allclose(facts.suspicion, total / weights, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(facts.held_out, held_out, rtol=1e-5)
    assert 20 < np.isfinite(held_out).sum() < len(facts)


@pytest.mark.parametrize("preset", ["full", "infobatch"])
def test_without_a_ledger_the_suspicion_is_the_mean_loss(preset: str) -> None:
    facts = audit.facts(made(preset, epochs=8).pruner)
    np.testing.assert_array_equal(facts.suspicion, facts.mean_loss)
    assert np.isnan(facts.held_out).all()
    assert (facts.first_flagged == -1).all()


def test_a_stored_state_has_the_facts_of_its_pruner(tmp_path: Path) -> None:
    pruner = made().pruner
    torch.save({"pruner": pruner.state_dict()}, tmp_path / "checkpoint.pt")
    stored = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["pruner"]
    check_equal(audit.facts(stored), audit.facts(pruner))


def test_the_facts_stay_as_they_are_while_the_training_goes_on() -> None:
    run = made("full", size=40, epochs=4)
    pruner = ap.Pruner.from_preset("full", num_samples=40, epochs=4, labels=run.given)
    for _ in range(2):
        pruner.reduce(torch.arange(40), torch.rand(40))
        pruner.end_epoch()
    before = audit.facts(pruner)
    copy = dataclasses.replace(before, **{n: np.copy(v) for n, v in vars(before).items() if isinstance(v, np.ndarray)})
    pruner.reduce(torch.arange(20), torch.rand(20))
    check_equal(audit.facts(pruner), copy)
    pruner.reduce(torch.arange(20, 40), torch.rand(20))
    pruner.end_epoch()
    check_equal(before, copy)
    assert audit.facts(pruner).epochs == 3


@pytest.mark.parametrize(
    "source", [None, [], {}, {"model": {}}, torch.zeros(3), "checkpoint.pt"], ids=lambda source: repr(source)[:12]
)
def test_what_is_no_run_is_refused(source: Any) -> None:
    with pytest.raises(TypeMistake, match="no Pruner and no state of one"):
        audit.facts(source)


def test_a_state_of_another_release_is_refused() -> None:
    state = made("full", size=30, epochs=2).pruner.state_dict()
    for other in ({**state, "version": 1}, {name: value for name, value in state.items() if name != "version"}):
        with pytest.raises(ValueMistake, match="format version .* read it with the release"):
            audit.facts(other)


def test_a_run_without_a_journal_is_refused() -> None:
    run = made("full", size=30, epochs=2, labels=None)
    with pytest.raises(ValueMistake, match="labels=train_labels.*journal=True"):
        audit.facts(run.pruner)
    with pytest.raises(ValueMistake, match="no journal"):
        audit.facts(run.pruner.state_dict())


def test_a_run_before_its_first_epoch_is_over_is_refused() -> None:
    pruner = ap.Pruner.from_preset("full", num_samples=30, epochs=2, labels=[0, 1] * 15)
    pruner.reduce(torch.arange(30), torch.rand(30))
    with pytest.raises(ValueMistake, match="no finished epoch"):
        audit.facts(pruner)
    pruner.end_epoch()
    assert len(audit.facts(pruner)) == 30
