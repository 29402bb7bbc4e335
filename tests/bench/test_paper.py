"""The paper's numbers: what is printed agrees with itself, and a misspelt question is no missing number."""

from __future__ import annotations

import dataclasses
from collections import defaultdict

import pytest

from alignprune.bench import paper
from alignprune.bench.paper import PaperNumber

ACCURACIES = ("1", "2", "4", "5", "B", "C", "D", "E", "G", "H", "I")
ROUNDING = 0.1 + 1e-9  # both accuracies and the delta are rounded to 0.1

# Where the paper contradicts itself.
MISPRINTED_DELTA = ("C", "50", "DUAL", "real_worst")
MISPRINTED_MEAN = ("B", "50", "Moderate")


def full_training(table: str) -> dict[tuple[str, str], float]:
    """Accuracy of full training by model and noise."""
    rows = [n for n in paper.numbers(table) if n.method.startswith("Full-training")]
    return {(n.model, n.noise): n.accuracy for n in rows if n.accuracy is not None}


@pytest.mark.parametrize("table", paper.TABLES)
def test_every_table_is_there_and_names_itself(table: str) -> None:
    rows = paper.rows(table)
    assert len(rows) > 0
    assert all(row.get("table", table) == table for row in rows)


def test_the_printed_deltas_are_differences_to_full_training() -> None:
    checked = 0
    for table in ACCURACIES:
        full = full_training(table)
        for n in paper.numbers(table):
            if n.delta is None or n.accuracy is None:
                continue
            agrees = abs(n.accuracy - full[n.model, n.noise] - n.delta) <= ROUNDING
            assert agrees != ((table, n.prune_ratio, n.method, n.noise) == MISPRINTED_DELTA), n
            checked += 1
    assert checked > 800


def test_the_printed_means_are_means_of_the_printed_deltas() -> None:
    checked = 0
    for table in ACCURACIES:
        deltas: dict[tuple[str, str], list[float | None]] = defaultdict(list)
        for n in paper.numbers(table):
            if "mean_delta" not in n.noise:
                deltas[n.prune_ratio, n.method].append(n.delta)
        for n in paper.numbers(table):
            own = deltas[n.prune_ratio, n.method]
            if n.noise == "mean_delta" and n.delta is not None and None not in own:
                agrees = abs(sum(own) / len(own) - n.delta) <= ROUNDING
                assert agrees != ((table, n.prune_ratio, n.method) == MISPRINTED_MEAN), n
                checked += 1
    assert checked > 50


def test_a_number_is_missing_where_its_status_says_so() -> None:
    for table in ACCURACIES:
        for n in paper.numbers(table):
            empty = n.accuracy is None and n.delta is None and n.std is None
            assert empty == (n.status == "missing"), n
            assert n.status in ("as_printed", "recovered", "missing")


def test_rows_that_two_tables_share_are_the_same() -> None:
    for small, large in (("1", "B"), ("2", "C")):
        known = {(n.prune_ratio, n.method, n.noise): n.accuracy for n in paper.numbers(large)}
        for n in paper.numbers(small):
            other = known.get((n.prune_ratio, n.method, n.noise))
            assert None in (n.accuracy, other) or n.accuracy == other, n


def test_numbers_are_frozen_records_of_one_printed_cell() -> None:
    number = next(n for n in paper.numbers("1") if n.method == "InfoBatch + Ours" and n.noise == "real")
    assert number == PaperNumber(
        "1", "CIFAR-100N", "ResNet-18", "30", "InfoBatch + Ours", "real", 59.4, 3.3, None, "as_printed", ""
    )
    with pytest.raises(dataclasses.FrozenInstanceError):
        number.accuracy = 60.0  # type: ignore[misc]


def test_find_reads_what_the_paper_prints() -> None:
    # Read off tables 1, 3, F and I in the paper.
    assert paper.find("1", method="InfoBatch + Ours", prune_ratio="50", noise="real") == 60.7
    assert paper.find("1", value="delta", method="SeTa", prune_ratio="50", noise="mean_delta") == 0.2
    assert paper.find("3", value="time_min", method="InfoBatch + Ours") == 22.5
    assert paper.find("F", value="avg_pruned_per_epoch_percent", method="InfoBatch") == 28.77
    assert paper.find("I", value="std", method="SeTa", noise="asym_0.2") == 0.2


def test_find_returns_none_for_what_the_paper_does_not_say() -> None:
    assert paper.find("1", method="InfoBatch", prune_ratio="0", noise="real") is None  # no such line
    assert paper.find("I", value="std", method="SeTa", noise="clean") is None  # not readable
    assert paper.find("1", value="accuracy", method="SeTa", prune_ratio="50", noise="mean_delta") is None


@pytest.mark.parametrize(
    "question, answer",
    [
        ({"method": "InfoBtach"}, "did you mean 'InfoBatch'"),
        ({"noise": "sym_0.3"}, "did you mean 'sym_0"),
        ({"prune_ratio": "0.5"}, "prune_ratio='0.5' is unknown, expected one of 0, 30, 50, 70"),
        ({"metod": "InfoBatch"}, "did you mean 'method'"),
        ({"value": "acuracy", "method": "InfoBatch"}, "did you mean 'accuracy'"),
        ({"method": "InfoBatch", "noise": "real"}, "3 lines of table 1, .*prune_ratio: 30, 50, 70"),
    ],
)
def test_a_misspelt_or_ambiguous_question_is_refused(question: dict[str, str], answer: str) -> None:
    with pytest.raises(ValueError, match=answer):
        paper.find("1", **question)


def test_an_unknown_table_is_refused() -> None:
    with pytest.raises(ValueError, match="table='6' is unknown"):
        paper.rows("6")
    with pytest.raises(ValueError, match="table='3' is unknown, expected one of 1, 2, 4"):
        paper.numbers("3")
