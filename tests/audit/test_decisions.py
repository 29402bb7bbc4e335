"""Decisions on labels: read from a file, applied to the data set that they are on, refused for any other."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch

from alignprune.audit import decisions
from alignprune.errors import MissingFile, TypeMistake, ValueMistake

CLASSES = ("cat", "dog", "=owl")
IDS = ("a", "b", "=1+1", "d", "'e")
LABELS = torch.tensor([0, 1, 2, -100, 0])
GIVEN = ["cat", "dog", "=owl", None, "cat"]
DATA = decisions.fingerprint(IDS, GIVEN)
HEADER = ["index", "id", "given_label", "decision", "label", "data"]


def written(path: Path, *rows: list[object], header: list[str] = HEADER, **how: str) -> Path:
    """A file with these rows behind the header; a row without its last cell gets the fingerprint."""
    with open(path / "decisions.csv", "w", encoding=how.get("encoding", "utf-8"), newline="") as file:
        csv.writer(file).writerows([header, *([*row, DATA] if len(row) == 5 else row for row in rows)])
    return path / "decisions.csv"


def applied(path: Path) -> tuple[list[int], list[int]]:
    labels, kept = decisions.load(path).apply(LABELS, CLASSES, IDS)
    assert labels.dtype == kept.dtype == torch.int64
    return labels.tolist(), kept.tolist()


# -- what is done -------------------------------------------------------------------------------------------


def test_samples_are_kept_relabelled_and_dropped_as_decided(tmp_path: Path) -> None:
    before = LABELS.clone()
    path = written(
        tmp_path,
        [4, "''e", "cat", "relabel", "'=owl"],
        [0, "a", "cat", "keep", ""],
        [1, "b", "dog", "drop", ""],
        [3, "d", "", "relabel", "dog"],
    )
    assert applied(path) == ([0, 1, 2, 1, 2], [0, 2, 3, 4])
    assert torch.equal(LABELS, before)


def test_decisions_on_a_part_of_a_data_set_find_its_samples_by_their_places(tmp_path: Path) -> None:
    path = written(tmp_path, [40, "''e", "cat", "relabel", "'=owl"], [12, "b", "dog", "drop", ""])
    read, places = decisions.load(path), torch.tensor([3, 12, 20, 31, 40])
    labels, kept = read.apply(LABELS, CLASSES, IDS, places)
    assert (labels.tolist(), kept.tolist()) == ([0, 1, 2, -100, 2], [0, 2, 3, 4])
    with pytest.raises(ValueMistake, match="row 2: index=40 is no sample of these 5, expected one of 3 to 41"):
        read.apply(LABELS, CLASSES, IDS, torch.tensor([3, 12, 20, 31, 41]))


def test_a_file_that_a_spreadsheet_program_saved_is_read(tmp_path: Path) -> None:
    # A byte order mark, columns in another order, a column of notes, rows left empty.
    header = ["note", "data", "label", "decision", "given_label", "id", "index"]
    rows = [["sure", DATA, "", "drop", "'=owl", "'=1+1", 2], [""] * 7]
    assert applied(written(tmp_path, *rows, header=header, encoding="utf-8-sig")) == ([0, 1, 2, -100, 0], [0, 1, 3, 4])


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@a", "\tx", "＝1", "'", "'=1", "''=1", "'a", "a=1", "", "ü\n'"])
def test_no_cell_is_a_formula_and_each_is_read_as_it_was(text: str) -> None:
    cell = decisions.as_cell(text)
    assert not cell.startswith(("=", "+", "-", "@", "\t", "\r", "＝", "＋", "－", "＠"))
    assert decisions.from_cell(cell) == text


def test_an_id_that_is_no_text_in_utf8_is_compared_as_the_file_can_hold_it(tmp_path: Path) -> None:
    ids = ["\udcff.png"]
    data = decisions.fingerprint(ids, ["cat"])
    path = written(tmp_path, [0, "\ufffd.png", "cat", "drop", "", data])
    assert decisions.load(path).apply(torch.tensor([0]), CLASSES, ids)[1].tolist() == []


# -- the fingerprint ----------------------------------------------------------------------------------------


def test_the_fingerprint_changes_with_each_id_each_label_and_their_order() -> None:
    data = [
        (["a", "b"], ["x", "y"]),
        (["a", "c"], ["x", "y"]),
        (["a", "b"], ["x", "x"]),
        (["b", "a"], ["x", "y"]),
        (["a", "b"], ["x", None]),
        (["a", "b"], ["x", ""]),
        (["ab", ""], ["x", "y"]),
        (["a1:x", "b"], ["", "y"]),
    ]
    assert len({decisions.fingerprint(*one) for one in data}) == len(data)
    assert decisions.fingerprint(iter(["a", "b"]), ("x", "y")) == decisions.fingerprint(["a", "b"], ["x", "y"])
    assert decisions.fingerprint(["a"], [float("nan")]) == decisions.fingerprint(["a"], [None])


def test_the_fingerprint_is_no_number_for_a_spreadsheet_program() -> None:
    assert DATA.startswith("alignprune1-")
    assert len(DATA) == len("alignprune1-") + 24


def test_a_fingerprint_of_numbers_or_of_lists_that_do_not_fit_is_refused() -> None:
    with pytest.raises(TypeMistake, match="given_labels holds 3, a int, expected texts"):
        decisions.fingerprint(["a"], [3])  # type: ignore[list-item]
    with pytest.raises(ValueMistake, match="ids has 1 samples, expected 2, as given_labels has"):
        decisions.fingerprint(["a"], ["x", "y"])


# -- what is refused ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "row, message",
    [
        ([1, "b", "dog", "Keep", ""], "row 3: decision='Keep' is unknown.* did you mean 'keep'"),
        ([1, "b", "dog", "", ""], "row 3: decision='' is unknown"),
        ([1, "b", "dog", "relabel", ""], "row 3: label='' does not fit relabel, expected the name of a class"),
        ([1, "b", "dog", "drop", "cat"], "row 3: label='cat' does not fit drop"),
        ([1, "b", "dog", "relabel", "dog"], "row 3: label='dog' is the given label"),
        ([0, "a", "cat", "drop", ""], "row 3: index=0 is in row 2 too"),
        (["1.0", "b", "dog", "keep", ""], "row 3: index='1.0' is no position"),
        ([-1, "b", "dog", "keep", ""], "row 3: index='-1' is no position"),
        ([1, "b", "dog", "keep"], "row 3: 4 cells are too few or too many, expected 6"),
        ([1, "b", "dog", "keep", "", "3.1e+09"], r"row 3: data='3.1e\+09' is no fingerprint"),
        ([1, "b", "dog", "keep", "", "alignprune1-0"], "row 3: data='alignprune1-0' is another data set than in row 2"),
    ],
)
def test_a_row_that_is_no_decision_is_refused_with_its_number(tmp_path: Path, row: list[object], message: str) -> None:
    with pytest.raises(ValueMistake, match=message):
        decisions.load(written(tmp_path, [0, "a", "cat", "keep", ""], row))


@pytest.mark.parametrize(
    "row, message",
    [
        ([5, "f", "cat", "keep", ""], "row 3: index=5 is no sample of these 5, expected one of 0 to 4"),
        ([1, "b", "cat", "keep", ""], "row 3: given_label='cat' is not that of sample 1, expected 'dog'"),
        ([3, "d", "cat", "keep", ""], "row 3: given_label='cat' is not that of sample 3, expected ''"),
        ([1, "c", "dog", "keep", ""], "row 3: id='c' is not that of sample 1, expected 'b'"),
        ([1, "b", "dog", "relabel", "cow"], "row 3: label='cow' is the name of 0 classes"),
    ],
)
def test_a_row_that_does_not_fit_the_data_is_refused_with_its_number(
    tmp_path: Path, row: list[object], message: str
) -> None:
    with pytest.raises(ValueMistake, match=message):
        applied(written(tmp_path, [0, "a", "cat", "keep", ""], row))


def test_a_class_name_that_two_classes_have_is_refused(tmp_path: Path) -> None:
    read = decisions.load(written(tmp_path, [1, "b", "dog", "relabel", "cat"]))
    with pytest.raises(ValueMistake, match="row 2: label='cat' is the name of 2 classes"):
        read.apply(LABELS, (*CLASSES, "cat"), IDS)


def test_decisions_on_another_data_set_are_refused(tmp_path: Path) -> None:
    read = decisions.load(written(tmp_path, [0, "a", "cat", "keep", ""]))
    others = [(LABELS.flip(0), IDS), (LABELS, IDS[::-1]), (LABELS[:4], IDS[:4])]
    for labels, ids in others:
        with pytest.raises(ValueMistake, match="is the fingerprint of another data set"):
            read.apply(labels, CLASSES, ids)


def test_what_is_no_file_of_decisions_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingFile, match="is no file, expected decisions.csv"):
        decisions.load(tmp_path)
    with pytest.raises(ValueMistake, match="has no row"):
        decisions.load(written(tmp_path))
    with pytest.raises(ValueMistake, match="has the columns of an empty file"):
        decisions.load(written(tmp_path, header=[]))
    with pytest.raises(ValueMistake, match="data is missing or there twice"):
        decisions.load(written(tmp_path, header=HEADER[:-1]))
    for content in (b"\xff\xfe\x00", b'index,"id\n'):
        (tmp_path / "decisions.csv").write_bytes(content)
        with pytest.raises(ValueMistake, match="is not CSV in UTF-8"):
            decisions.load(tmp_path / "decisions.csv")
