"""Selection: what it says, what it refuses, and its state."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alignprune import Selection, errors
from alignprune.selection import Onset


def test_a_selection_knows_what_it_leaves_out() -> None:
    selection = Selection(torch.tensor([1, 4]), torch.tensor([2.0, 1.0]), 5)
    assert len(selection) == 2
    assert selection.pruned.tolist() == [0, 2, 3]
    assert selection.pruned_share == pytest.approx(0.6)
    dense = selection.dense_weights()
    assert dense is not None
    assert dense.tolist() == [1, 2, 1, 1, 1]


def test_the_full_selection_leaves_nothing_out() -> None:
    selection = Selection.full(4)
    assert selection.indices.tolist() == [0, 1, 2, 3]
    assert (selection.pruned.tolist(), selection.pruned_share, selection.dense_weights()) == ([], 0.0, None)
    assert selection.uniform


def test_a_mask_selects_its_true_entries() -> None:
    selection = Selection.of_mask(np.array([True, False, True]))
    assert (selection.indices.tolist(), selection.indices.dtype, selection.num_samples) == ([0, 2], torch.int64, 3)
    assert selection.mask().tolist() == [True, False, True]


def test_the_mask_is_a_new_array() -> None:
    selection = Selection(torch.tensor([1]), None, 3)
    selection.mask()[:] = True
    assert selection.mask().tolist() == [False, True, False]


def test_what_has_no_weight_is_selected_and_not_trained_on() -> None:
    selection = Selection(torch.tensor([0, 2, 3]), torch.tensor([1.5, 0.0, 1.5]), 5, suspects=torch.tensor([2, 4]))
    assert selection.trained.tolist() == [0, 3]
    assert selection.pruned.tolist() == [1, 4]
    assert Selection(torch.tensor([0, 2]), None, 5).trained.tolist() == [0, 2]


def test_nothing_at_all_can_be_selected() -> None:
    selection = Selection(torch.empty(0, dtype=torch.int64), None, 3)
    assert (len(selection), selection.pruned.tolist(), selection.pruned_share) == (0, [0, 1, 2], 1.0)


INDICES = [
    ([0, 1], "TypeMistake", r"\[0, 1\] is no list of samples, expected int64 \[K\] on the CPU"),
    (torch.tensor([0.0, 1.0]), "TypeMistake", r"torch.float32 \(2,\) is no list of samples"),
    (torch.tensor([0, 1], dtype=torch.int32), "TypeMistake", r"torch.int32 \(2,\) is no list of samples"),
    (torch.tensor([True, False, True]), "TypeMistake", r"torch.bool \(3,\) is no list.*flatnonzero\(keep\)"),
    (torch.tensor([[0, 1]]), "TypeMistake", r"torch.int64 \(1, 2\) is no list of samples"),
    (torch.tensor([0, 1], device="meta"), "TypeMistake", "on the CPU"),
    (torch.tensor([0, 1]).to_sparse(), "TypeMistake", "is no list of samples"),
    (torch.tensor([1, 0]), "ValueMistake", r"torch.int64 \(2,\) is not ascending, expected each sample once, in order"),
    (torch.tensor([0, 1, 1]), "ValueMistake", "is not ascending, expected each sample once.*unique"),
    (torch.tensor([-1, 2]), "ValueMistake", "reaches from -1 to 2, expected 0 to 4: indices of the data set"),
    (torch.tensor([0, 5]), "ValueMistake", "reaches from 0 to 5, expected 0 to 4: indices of the data set"),
]


@pytest.mark.parametrize("wrong, kind, message", INDICES)
def test_indices_and_suspects_that_are_no_samples_are_refused_where_they_are_made(
    wrong: Any, kind: str, message: str
) -> None:
    with pytest.raises(getattr(errors, kind), match="^indices=.*" + message):
        Selection(wrong, None, 5)
    with pytest.raises(getattr(errors, kind), match="^suspects=.*" + message):
        Selection(torch.tensor([0, 1]), None, 5, suspects=wrong)


@pytest.mark.parametrize(
    "weights",
    [
        [1.0, 2.0],
        torch.tensor([1.0, 2.0], dtype=torch.float64),
        torch.tensor([1, 2]),
        torch.tensor([1.0]),
        torch.tensor([1.0, 2.0, 3.0]),
        torch.tensor([[1.0, 2.0]]),
        2.0,
    ],
    ids=str,
)
def test_weights_that_are_not_one_for_every_index_are_refused_where_they_are_made(weights: Any) -> None:
    message = (
        r"^weights=.* is no weight for every index, expected float32 \[2\] on the CPU: one for each of indices, or None"
    )
    with pytest.raises(errors.TypeMistake, match=message):
        Selection(torch.tensor([0, 3]), weights, 5)


@pytest.mark.parametrize("weights", [torch.ones(2, requires_grad=True), torch.ones(2).to_sparse()], ids=str)
def test_weights_with_a_gradient_and_sparse_ones_are_refused_where_they_are_made(weights: torch.Tensor) -> None:
    with pytest.raises(errors.TypeMistake, match=r"^weights=.* is sparse or has a gradient, expected plain numbers: "):
        Selection(torch.tensor([0, 3]), weights, 5)


# State.


@given(
    keep=st.lists(st.booleans(), min_size=1, max_size=40),
    weighted=st.booleans(),
    flagged=st.booleans(),
    rate=st.one_of(st.none(), st.floats(0, 1)),
    uniform=st.booleans(),
    onset=st.sampled_from([None, Onset(3), Onset(4, 2.25)]),
    memorises=st.sampled_from([None, False, True]),
)
@settings(max_examples=100, deadline=None)
def test_a_selection_comes_back_from_its_state(
    keep: list[bool],
    weighted: bool,
    flagged: bool,
    rate: float | None,
    uniform: bool,
    onset: Onset | None,
    memorises: bool | None,
) -> None:
    mask = np.array(keep)
    indices = torch.from_numpy(np.flatnonzero(mask))
    weights = torch.rand(len(indices), generator=torch.Generator().manual_seed(0)) if weighted else None
    suspects = torch.from_numpy(np.flatnonzero(~mask)) if flagged else None
    selection = Selection(indices, weights, len(keep), suspects, rate, uniform, onset, memorises)
    buffer = io.BytesIO()
    torch.save(selection.state_dict(), buffer)
    back = Selection.from_state_dict(torch.load(io.BytesIO(buffer.getvalue()), weights_only=True))
    assert torch.equal(back.indices, indices)
    for name in ("weights", "suspects"):
        here, there = getattr(selection, name), getattr(back, name)
        assert (here is None) == (there is None)
        assert here is None or torch.equal(here, there)
    names = ("num_samples", "noise_rate", "uniform", "onset", "memorises")
    assert [getattr(back, name) for name in names] == [len(keep), rate, uniform, onset, memorises]


def test_the_whole_data_set_is_stored_as_a_word() -> None:
    state = Selection.full(1_000_000).state_dict()
    assert not any(isinstance(value, torch.Tensor) for value in state.values())
    assert len(Selection.from_state_dict(state)) == 1_000_000


def test_a_damaged_state_of_a_selection_is_refused() -> None:
    state = Selection(torch.tensor([1, 4]), torch.tensor([1.0, 2.0]), 5).state_dict()
    for name, wrong in (("indices", torch.tensor([4, 1])), ("weights", torch.ones(3)), ("num_samples", 4)):
        with pytest.raises(errors.UserError, match="indices|weights"):
            Selection.from_state_dict(state | {name: wrong})


def test_an_onset_may_know_no_two_groups() -> None:
    assert Onset(3) == Onset(3, None) != Onset(3, 1.0)
    assert math.isclose(Onset(3, 1.0).separation or 0.0, 1.0)


@pytest.mark.parametrize("bad", [-1.0, float("nan"), float("inf")])
def test_weights_that_are_no_weights_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match=rf"holds {bad}, expected finite numbers >= 0"):
        Selection(torch.tensor([0, 3]), torch.tensor([1.0, bad]), 5)
