"""Runs with decisions on labels: trained on the changed labels, resumed with the same decisions only."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from alignprune.audit import decisions
from alignprune.bench.parsing import parse_train
from alignprune.bench.run import data
from alignprune.bench.run.config import configure
from alignprune.cli import main
from alignprune.errors import ValueMistake

NAMES = ("ant", "bee", "cat")
TRUTH = np.arange(90) % 3
GIVEN = np.where(np.arange(90) % 10 == 0, (TRUTH + 1) % 3, TRUTH)  # every tenth label is wrong
TRAIN = ["--method", "infobatch", "--epochs", "2", "--device", "cpu"]


def own(folder: Path, **more: Any) -> Path:
    x = np.random.default_rng(0).normal(size=(120, 4)) + 3 * np.eye(3, 4)[np.arange(120) % 3]
    arrays = {"x_train": x[:90], "y_train": GIVEN, "y_train_clean": TRUTH, "x_test": x[90:], "y_test": TRUTH[:30]}
    folder.mkdir(exist_ok=True)
    np.savez(folder / "own.npz", **arrays, class_names=NAMES, **more)
    return folder / "own.npz"


def decide(file: Path, choices: Mapping[int, str], ids: Sequence[str] = tuple(map(str, range(90)))) -> Path:
    """A file that drops these samples or gives them labels, in the data set as it is given."""
    mark = decisions.fingerprint(ids, [NAMES[label] for label in GIVEN])
    with open(file, "w", newline="") as opened:
        writer = csv.writer(opened)
        writer.writerow(decisions.COLUMNS)
        for index, choice in choices.items():
            row = ["drop", ""] if choice == "drop" else ["relabel", choice]
            writer.writerow([index, ids[index], NAMES[GIVEN[index]], *row, mark])
    return file


MENDED = {0: "ant", 10: "bee", 20: "drop", 1: "cat"}
"""Two labels mended, one sample dropped, and a right label made wrong."""


def test_a_run_trains_on_the_labels_that_were_decided(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = decide(tmp_path / "decisions.csv", MENDED)
    out = tmp_path / "run"
    assert main(["train", str(own(tmp_path)), *TRAIN, "--labels", str(file), "--out", str(out)]) == 0
    assert f"labels: 3 relabelled, 1 dropped of 90, by {file}" in capsys.readouterr().out.splitlines()
    expected = GIVEN.copy()
    expected[[0, 10, 1]] = [0, 1, 2]
    with np.load(out / "noise.npz") as stored:
        assert stored["labels"].tolist() == np.delete(expected, 20).tolist()
        assert stored["clean"].tolist() == np.delete(TRUTH, 20).tolist()
    result = json.loads((out / "result.json").read_text())
    assert result["train_size"] == 89
    assert result["noise_rate"] == pytest.approx(7 / 89)  # nine wrong labels, two mended, one dropped, one added


def test_the_samples_are_what_is_left_and_the_decisions_come_first(tmp_path: Path) -> None:
    file = decide(tmp_path / "decisions.csv", {i: "drop" for i in range(90) if GIVEN[i] == 2} | {0: "cat", 3: "cat"})
    settings = {"dataset": str(own(tmp_path)), "method": "full", "labels": str(file)}
    loaded = data.load(configure(settings))
    given = [loaded.train[i][1] for i in range(len(loaded.train))]  # type: ignore[arg-type]
    left = [i for i in range(90) if GIVEN[i] != 2]
    assert given == loaded.labels.tolist() == [2 if i in (0, 3) else GIVEN[i] for i in left]
    assert data.load(configure(settings | {"limit": 6})).labels.sort().values.tolist() == [0, 0, 1, 1, 2, 2]
    with pytest.raises(ValueMistake, match="size=70 is out of range, expected an integer from 3 to 60"):
        data.load(configure(settings | {"limit": 70}))


def test_samples_are_called_by_their_ids(tmp_path: Path) -> None:
    ids = [f"s{i}" for i in range(90)]
    file = decide(tmp_path / "decisions.csv", {5: "drop"}, ids)
    settings = {"dataset": str(own(tmp_path, ids=ids)), "method": "full", "labels": str(file)}
    assert list(data.load(configure(settings)).ids or ()) == ids[:5] + ids[6:]
    with pytest.raises(ValueMistake, match="is the fingerprint of another data set"):
        data.load(configure(settings | {"dataset": str(own(tmp_path / "other"))}))


def test_decisions_on_what_a_holdout_leaves_change_just_that(tmp_path: Path) -> None:
    settings = {"dataset": str(own(tmp_path)), "method": "full", "limit": 80, "holdout": 0.25, "seed": 3}
    before = data.load(configure(settings))
    given = before.labels.tolist()
    assert len(given) == 60
    assert before.places is not None
    places = before.places.tolist()
    mark = decisions.fingerprint(map(str, places), [NAMES[label] for label in given])
    new = (given[7] + 1) % 3
    rows = [
        (places[7], places[7], NAMES[given[7]], "relabel", NAMES[new], mark),
        (places[50], places[50], NAMES[given[50]], "drop", "", mark),
    ]
    with open(tmp_path / "decisions.csv", "w", newline="") as file:
        csv.writer(file).writerows([decisions.COLUMNS, *rows])
    after = data.load(configure(settings | {"labels": str(tmp_path / "decisions.csv")}))
    assert after.labels.tolist() == [*given[:7], new, *given[8:50], *given[51:]]
    assert [after.test[i][1] for i in range(20)] == [before.test[i][1] for i in range(20)]  # type: ignore[index]
    with pytest.raises(ValueMistake, match="is the fingerprint of another data set"):
        data.load(configure(settings | {"labels": str(tmp_path / "decisions.csv"), "seed": 4}))


def test_what_does_not_fit_is_refused_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = decide(tmp_path / "decisions.csv", MENDED), tmp_path / "run"
    all_dropped = decide(tmp_path / "all.csv", dict.fromkeys(range(90), "drop"))
    other = {"x_train": np.eye(90, 4), "y_train": TRUTH, "x_test": np.eye(90, 4), "y_test": TRUTH}
    np.savez(tmp_path / "foreign.npz", **other, class_names=NAMES)
    for dataset, labels, said in (
        (tmp_path / "foreign.npz", file, f"labels={str(file)!r}: data="),
        (own(tmp_path), tmp_path / "none.csv", "none.csv' is not there, expected the decisions.csv"),
        (own(tmp_path), all_dropped, "drops all 90 training samples"),
    ):
        assert main(["train", str(dataset), *TRAIN, "--labels", str(labels), "--out", str(out)]) == 2
        assert said in capsys.readouterr().err
    needs_proxy = ["--method", "small-loss", "--prune-ratio", "0.5", "--device", "cpu", "--out", str(out)]
    assert main(["train", str(tmp_path / "foreign.npz"), *needs_proxy, "--labels", str(file)]) == 2
    assert not list(tmp_path.glob("run*"))


def test_a_run_goes_on_with_the_same_decisions_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, out = decide(tmp_path / "decisions.csv", MENDED), tmp_path / "run"
    words = ["train", str(own(tmp_path)), *TRAIN, "--labels", str(file), "--out", str(out)]
    assert main(words) == 0
    assert main([*words, "--resume"]) == 0
    capsys.readouterr()
    decide(file, MENDED | {40: "drop"})
    assert main([*words, "--resume"]) == 2
    assert "is a run with another configuration (labels_digest: '" in capsys.readouterr().err


def test_the_config_of_a_run_asks_for_its_decisions_unless_others_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = decide(tmp_path / "decisions.csv", MENDED), tmp_path / "run"
    assert main(["train", str(own(tmp_path)), *TRAIN, "--labels", str(file), "--out", str(out)]) == 0
    again = ["--config", str(out / "config.json"), "--device", "cpu", "--out", str(tmp_path / "again")]
    assert parse_train(again).data.labels == file
    other = decide(tmp_path / "other.csv", {40: "drop"})
    named = parse_train([*again, "--labels", str(other)])
    assert (named.data.labels, named.data.labels_digest) == (other, None)
    decide(file, MENDED | {40: "drop"})
    capsys.readouterr()
    assert main(["train", *again]) == 2
    assert "give the file that was used, or take this one by --labels-digest None" in capsys.readouterr().err
    assert main(["train", *again, "--labels-digest", "None"]) == 0
    with pytest.raises(ValueMistake, match="labels_digest='ab' is given without labels"):
        parse_train([str(own(tmp_path)), "--labels-digest", "ab"])


def test_decisions_on_the_report_of_an_audit_are_audited_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with np.load(own(tmp_path)) as found:
        values, names = found["x_train"], [NAMES[label] for label in GIVEN]
    frame = pd.DataFrame(values, columns=list("abcd")).assign(label=names)
    frame.to_csv(tmp_path / "own.csv", index=False)
    words = ["audit", str(tmp_path / "own.csv"), "--epochs", "2", "--device", "cpu"]  # a tenth is held out
    assert main([*words, "--out", str(tmp_path / "first")]) == 0
    report = pd.read_parquet(tmp_path / "first" / "label_issues.parquet").sort_values("index")
    assert len(report) == 81
    mark = decisions.fingerprint(report.id, report.given_label)
    first = report.iloc[0]
    other = NAMES[(NAMES.index(first.given_label) + 1) % 3]
    rows = [(first["index"], first.id, first.given_label, "relabel", other, mark)]
    rows += [(row["index"], row.id, row.given_label, "drop", "", mark) for _, row in report.iloc[10:15].iterrows()]
    with open(tmp_path / "decisions.csv", "w", newline="") as file:
        csv.writer(file).writerows([decisions.COLUMNS, *rows])
    capsys.readouterr()
    again = [*words, "--labels", str(tmp_path / "decisions.csv"), "--out", str(tmp_path / "again")]
    assert main(again) == 0
    assert "labels: 1 relabelled, 5 dropped of 81" in capsys.readouterr().out
    anew = pd.read_parquet(tmp_path / "again" / "label_issues.parquet").sort_values("index")
    left = report.drop(report.index[10:15])
    assert anew.given_label.tolist() == [other, *left.given_label.tolist()[1:]]
