"""Labels given to the pruner, and the answer it gives about them."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import alignprune as ap
from alignprune.scores import Score
from toy_pruners import SCORES, N, batches, infobatch, loss_table, run_epoch, toy_set

# -------------------------------------------------------------------------- the answer


def flagged(epochs: int = 12, **settings: Any) -> ap.Pruner:
    """A `robust` run whose first samples have far higher losses, at its end."""
    pruner = ap.Pruner.from_preset("robust", num_samples=400, epochs=epochs, **settings)
    generator = torch.Generator().manual_seed(0)
    while pruner.epoch < epochs:
        losses = torch.rand(400, generator=generator)
        losses[:120] += 5
        run_epoch(pruner, losses.expand(epochs, 400), size=64)
    return pruner


def test_the_suspects_stay_when_training_ends() -> None:
    pruner = flagged()
    assert pruner.suspects is not None
    assert pruner.suspects.tolist() == list(range(120))
    assert pruner.noise_rate == pytest.approx(0.3, abs=0.02)
    assert pruner.selection.suspects is pruner.suspects


def test_the_suspects_stay_in_the_state_of_a_finished_run() -> None:
    pruner, other = flagged(), ap.Pruner.from_preset("robust", num_samples=400, epochs=12)
    file = io.BytesIO()
    torch.save(pruner.state_dict(), file)
    other.load_state_dict(torch.load(io.BytesIO(file.getvalue()), weights_only=True))
    assert other.epoch == other.epochs
    assert other.suspects is not None
    assert other.suspects.tolist() == list(range(120))
    assert other.noise_rate == pruner.noise_rate
    assert len(other.sampler) == 0


def test_the_suspects_stay_through_an_annealing() -> None:
    pruner = flagged(delta=0.7)
    assert len(pruner.selection) == 400
    assert pruner.suspects is not None
    assert pruner.suspects.tolist() == list(range(120))


def test_methods_that_flag_nobody_say_none() -> None:
    pruner = infobatch(epochs=1)
    run_epoch(pruner, loss_table(1))
    assert pruner.suspects is None
    assert pruner.noise_rate is None


@pytest.mark.parametrize("score", SCORES, ids=lambda score: type(score).__name__)
def test_suspicion_is_the_score_turned_by_its_own_word(score: Score) -> None:
    table, pruner = loss_table(8), ap.Pruner(N, 9, score, ap.policies.Full())
    for epoch in range(8):
        run_epoch(pruner, table, reference=float(table[epoch].mean()) if score.needs_reference else None)
    turned = pruner.scores if score.suspect == "high" else -pruner.scores
    assert torch.equal(pruner.suspicion, turned)


# -------------------------------------------------------------------------- labels are names


def labelled_run(labels: Any) -> tuple[list[list[int]], list[int]]:
    """The selections and final suspects of a run in which held-out losses decide who is re-admitted."""
    pruner = ap.Pruner.from_preset("robust", num_samples=400, epochs=14, labels=labels)
    generator, selections = torch.Generator().manual_seed(0), []
    for epoch in range(14):
        losses = torch.rand(400, generator=generator)
        losses[:120] += 5.0
        losses[:120:2] -= 5.0 * (epoch > 6)  # hard ones, found right as soon as they are looked at held out
        selections.append(pruner.selection.indices.tolist())
        run_epoch(pruner, losses.expand(14, 400), size=64)
    assert pruner.suspects is not None
    return selections, pruner.suspects.tolist()


CLASSES = np.arange(400) % 4
NAMES: dict[str, Any] = {
    "wide": CLASSES.astype(np.int64) * 2**40 - 2**41,
    "unsigned": CLASSES.astype(np.uint16),
    "uint64": CLASSES.astype(np.uint64) + np.uint64(2**63),
    "negative": CLASSES - 7,
    "list": CLASSES.tolist(),
    "tensor": torch.from_numpy(CLASSES.astype(np.int8)),
    "strings": np.array(["ant", "bee", "cat", "dog"])[CLASSES],
    "objects": [["ant", "bee", "cat", "dog"][c] for c in CLASSES],
}


@pytest.mark.parametrize("name", NAMES)
def test_labels_are_names(name: str) -> None:
    assert labelled_run(NAMES[name]) == labelled_run(CLASSES)


def test_labels_matter() -> None:  # or the test above could not fail
    assert labelled_run(CLASSES) != labelled_run(None)


def test_a_column_of_a_split_frame_is_taken_in_its_order() -> None:
    pandas = pytest.importorskip("pandas", reason="pandas is not installed, so no Series can be made")
    frame = pandas.DataFrame({"y": np.concatenate([[9] * 100, CLASSES])}).sample(frac=1, random_state=0)
    part = frame.iloc[:400]
    assert labelled_run(part["y"]) == labelled_run(part["y"].to_numpy())


BAD_LABELS: list[tuple[Any, str]] = [
    (np.zeros(N - 1, dtype=int), rf"labels=int64 \({N - 1},\) is not one a sample, expected \[{N}\]"),
    (np.zeros((N, 2), dtype=int), rf"is not one a sample, expected \[{N}\]"),
    (np.zeros(N), r"labels=float64 .* no class names, expected integers or strings"),
    ([0.5] * N, r"labels=float64 .* no class names"),
    (["a", 1] * (N // 2), r"labels=<U|labels=int and str|no class names|one kind"),
    ([object()] * N, r"labels=object are no class names"),
]


@pytest.mark.parametrize("labels, message", BAD_LABELS[:4] + BAD_LABELS[5:])
def test_labels_that_are_no_names_are_refused(labels: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        infobatch(labels=labels)


# -------------------------------------------------------------------------- samples without a label


def test_unlabelled_samples_count_neither_in_the_mean_nor_in_its_gradient() -> None:
    pruner, (x, y), model = infobatch(), toy_set().tensors, nn.Linear(4, 2)
    y = y.clone()
    y[::3] = -100
    index = next(batches(pruner))
    expected = torch.autograd.grad(F.cross_entropy(model(x[index]), y[index]), list(model.parameters()))
    losses = F.cross_entropy(model(x[index]), y[index], reduction="none")
    found = torch.autograd.grad(pruner.reduce(index, losses, labelled=y[index] != -100), list(model.parameters()))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("known", [False, True], ids=["by the mask", "by the labels"])
def test_unlabelled_samples_have_no_score(known: bool) -> None:
    y = torch.arange(N) % 2
    y[::3] = -100
    pruner = infobatch(labels=y) if known else infobatch()
    table = loss_table(1)[0].masked_fill(y < 0, 0.0)  # what torch's criterion returns for them
    for index in batches(pruner):
        labelled = None if known else y[index] >= 0
        loss = pruner.reduce(index, table[index], labelled=labelled)
        assert loss.item() == pytest.approx(table[index][y[index] >= 0].mean().item(), rel=1e-6)
    pruner.end_epoch()
    assert pruner.nonfinite == 0
    assert pruner.scores.isnan().nonzero().squeeze(1).tolist() == list(range(0, N, 3))


def test_a_batch_without_any_label_teaches_nothing() -> None:
    pruner, losses = infobatch(), torch.zeros(8, requires_grad=True)
    loss = pruner.reduce(next(batches(pruner)), losses * 2, labelled=torch.zeros(8, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0
    assert losses.grad is not None
    assert losses.grad.tolist() == [0.0] * 8


def test_none_is_a_sample_without_a_label() -> None:
    names: list[str | None] = ["ant", "bee"] * (N // 2)
    names[5] = None
    pruner, table = infobatch(labels=names), loss_table(1)
    run_epoch(pruner, table)
    assert pruner.scores.isnan().nonzero().squeeze(1).tolist() == [5]


@pytest.mark.parametrize("labelled", [torch.ones(8), torch.ones(7, dtype=torch.bool)])
def test_a_mask_of_another_batch_is_refused(labelled: Tensor) -> None:
    pruner = infobatch()
    with pytest.raises(ValueError, match=r"labelled is .*expected bool \[8\]: such as y != -100"):
        pruner.reduce(next(batches(pruner)), torch.rand(8), labelled=labelled)
