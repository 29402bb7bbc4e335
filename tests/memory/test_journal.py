"""The journal, against a loop that keeps every epoch of every sample."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alignprune.memory import Journal, JournalSpec, Observed, Room
from alignprune.selection import Selection

N, CLASSES = 4, 3
GIVEN = torch.tensor([0, 1, 2, -1], dtype=torch.int32)

# Of a sample in an epoch: left out; seen and trained on or not, with its loss, what was predicted, whether flagged.
seen = st.tuples(st.booleans(), st.floats(0, 8, width=32), st.integers(-1, CLASSES - 1), st.booleans())
epochs = st.lists(st.lists(st.one_of(st.none(), seen), min_size=N, max_size=N), min_size=1, max_size=9)


def entered(table: list[list[Any]], journal: Journal, first: int = 0) -> Journal:
    for epoch, row in enumerate(table, first):
        indices = torch.tensor([i for i in range(N) if row[i] is not None], dtype=torch.int64)
        weights = torch.tensor([float(row[i][0]) for i in indices.tolist()])
        suspects = torch.tensor([i for i in indices.tolist() if row[i][3]], dtype=torch.int64)
        losses = torch.tensor([math.nan if cell is None else cell[1] for cell in row])
        predicted = torch.tensor([-1 if cell is None else cell[2] for cell in row], dtype=torch.int32)
        journal.write(Observed(epoch, losses, Selection(indices, weights, N, suspects=suspects), predicted))
    return journal


def mean(values: list[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan


@given(epochs)
def test_every_number_is_that_of_all_that_happened(table: list[list[Any]]) -> None:
    journal = entered(table, Journal(N, GIVEN))
    for i in range(N):
        cells = [(epoch, *row[i]) for epoch, row in enumerate(table) if row[i] is not None]
        held_out = [loss for _, trained, loss, _, _ in cells if not trained]
        assert int(journal.trained[i]) == sum(trained for _, trained, *_ in cells)
        assert int(journal.held_out[i]) == len(held_out)
        assert float(journal.mean_loss[i]) == pytest.approx(mean([cell[2] for cell in cells]), abs=1e-5, nan_ok=True)
        assert float(journal.held_out_loss[i]) == pytest.approx(mean(held_out), abs=1e-5, nan_ok=True)
        assert int(journal.first_flagged[i]) == min((cell[0] for cell in cells if cell[4]), default=-1)
        votes = [cell[3] for cell in cells if cell[3] >= 0]
        against = Counter(vote for vote in votes if vote != int(GIVEN[i]))
        assert int(journal.predictions[i]) == len(votes)
        assert int(journal.agreeing[i]) == len(votes) - against.total()
        if not against:
            assert int(journal.alternative[i]) == -1
            continue
        winner, most = against.most_common(1)[0]
        assert int(journal.alternative[i]) in against
        if 2 * most > against.total():
            assert int(journal.alternative[i]) == winner
            assert int(journal.lead[i]) >= 2 * most - against.total()


def test_without_labels_the_alternative_is_the_class_that_is_predicted_most() -> None:
    row = [(True, 1.0, 2, False)] * N
    journal = entered([row, [(True, 1.0, 0, False)] * N, row], JournalSpec().make(Room(N, 5)))
    assert journal.alternative.tolist() == [2] * N
    assert journal.agreeing.tolist() == [0] * N


def test_an_epoch_without_predictions_leaves_the_votes_as_they_are() -> None:
    journal = entered([[(True, 1.0, 2, False)] * N], Journal(N, GIVEN))
    journal.write(Observed(1, torch.ones(N), Selection.full(N)))
    assert journal.predictions.tolist() == [1] * N
    assert journal.trained.tolist() == [2] * N


@given(epochs, st.integers(0, 8))
def test_a_state_goes_on_bit_for_bit(table: list[list[Any]], stop: int) -> None:
    stop = min(stop, len(table))
    again = Journal(N, GIVEN)
    state = entered(table[:stop], Journal(N, GIVEN)).state_dict()
    again.check_state_dict(state)
    again.load_state_dict(state)
    end, expected = entered(table[stop:], again, stop).state_dict(), entered(table, Journal(N, GIVEN)).state_dict()
    for name, values in expected.items():
        assert torch.equal(end[name].nan_to_num(-1), values.nan_to_num(-1)), name


def test_a_state_of_another_size_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"journal.trained=torch.int32 \(4,\) does not fit, expected torch.int32 \(5,\)"
    ):
        Journal(5).check_state_dict(Journal(4).state_dict())
