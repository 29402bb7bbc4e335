"""The table of the label report: against the truth of a real training, and what goes into it and is refused."""

from __future__ import annotations

import dataclasses
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from alignprune import audit
from alignprune.errors import TypeMistake, ValueMistake
from label_report import digits, made, made_facts

pd = pytest.importorskip("pandas", reason="the extra of the label report is not installed")

from alignprune.audit.table import judged_table  # noqa: E402

COLUMNS = {
    "index": "int64",
    "id": str(pd.Series([""]).dtype),
    "given_label": str(pd.Series([""]).dtype),
    "predicted_label": str(pd.Series([""]).dtype),
    "is_label_issue": "bool",
    "label_score": "float64",
    "p_wrong": "float64",
    "first_flagged_epoch": "Int64",
    "times_trained": "int64",
    "times_held_out": "int64",
    "mean_loss": "float64",
    "held_out_loss": "float64",
}
PAGE = Path(__file__).parents[2] / "docs/label-report-tools.md"
NAMES = ("ant", "bee", "cow")


def same(one: Any, other: Any) -> None:
    pd.testing.assert_frame_equal(one, other, check_exact=True)


# -- a real training ---------------------------------------------------------------------------------------


def test_the_wrong_labels_of_a_training_come_first() -> None:
    run = digits()
    report = audit.table(run.pruner, run.given)
    assert average_precision_score(run.wrong, report["p_wrong"]) > 0.95
    assert average_precision_score(run.wrong, 1 - report["label_score"]) > 0.95
    issues = report["is_label_issue"].to_numpy()
    assert run.wrong[issues].mean() > 0.9
    assert issues[run.wrong].mean() > 0.8


def test_of_labels_that_are_wrong_with_a_probability_as_many_are() -> None:
    run = digits()
    p = audit.table(run.pruner, run.given)["p_wrong"].to_numpy()
    assert p.mean() == pytest.approx(run.wrong.mean(), abs=0.03)
    groups = np.array_split(np.argsort(p), 10)
    assert np.mean([abs(p[group].mean() - run.wrong[group].mean()) for group in groups]) < 0.05


def test_the_label_that_is_suggested_for_a_wrong_one_mostly_is_the_true_one() -> None:
    run = digits()
    report = audit.table(run.pruner, run.given)
    suggested = report["predicted_label"].to_numpy()
    true = run.true.numpy().astype(str)
    issues = report["is_label_issue"].to_numpy()
    assert (suggested[run.wrong & issues] == true[run.wrong & issues]).mean() > 0.9
    assert (suggested == true).mean() > 0.95
    assert (suggested[issues] != report["given_label"].to_numpy()[issues]).all()


def test_a_stored_state_gives_the_table_of_its_pruner(tmp_path: Path) -> None:
    run = digits()
    torch.save(run.pruner.state_dict(), tmp_path / "state.pt")
    stored = torch.load(tmp_path / "state.pt", weights_only=True)
    same(audit.table(stored, run.given), audit.table(run.pruner, run.given))


# -- columns -----------------------------------------------------------------------------------------------


def test_the_columns_have_their_names_and_types_whatever_the_run_lacks() -> None:
    bare = made("full", size=30, epochs=1, predict=False, labels=None, journal=True)
    for report in (
        audit.table(digits().pruner, digits().given),
        audit.table(made("infobatch", size=60, epochs=3, unlabelled=60).pruner, [-100] * 60),
        audit.table(bare.pruner, [None] * 30),
    ):
        assert {name: str(dtype) for name, dtype in report.dtypes.items()} == COLUMNS
        assert list(report.columns) == list(COLUMNS)
        assert report.index.equals(pd.RangeIndex(len(report)))


def test_every_row_says_what_the_facts_say() -> None:
    run = made(unlabelled=9)
    facts = audit.facts(run.pruner)
    report, judged, names = judged_table(facts, run.given, class_names=NAMES, ids=[f"{i}.png" for i in range(600)])
    assert names == list(NAMES)
    assert 0 < report["first_flagged_epoch"].notna().sum() < 600
    for i in [*range(12), *range(12, 600, 11)]:
        row = report.iloc[i]
        assert (row["index"], row["id"]) == (i, f"{i}.png")
        assert row["given_label"] == NAMES[run.given[i]] if run.given[i] >= 0 else pd.isna(row["given_label"])
        assert row["is_label_issue"] == (judged.p_wrong[i] > 0.5)
        np.testing.assert_array_equal([row["p_wrong"], row["label_score"]], [judged.p_wrong[i], judged.label_score[i]])
        if facts.first_flagged[i] < 0:
            assert row["first_flagged_epoch"] is pd.NA
        else:
            assert row["first_flagged_epoch"] == facts.first_flagged[i] + 1
        for name in ("times_trained", "times_held_out", "mean_loss", "held_out_loss"):
            np.testing.assert_array_equal(row[name], getattr(facts, name)[i])


@pytest.mark.parametrize(
    "agreeing, alternative, wrong, predicted",
    [
        (10, -1, False, "ant"),
        (10, -1, True, "ant"),  # nothing else was ever said
        (6, 1, False, "ant"),
        (6, 1, True, "bee"),  # of an issue, what speaks against its label
        (5, 2, False, "ant"),
        (4, 2, False, "cow"),
        (0, 2, True, "cow"),
        (None, -1, True, None),
    ],
)
def test_the_predicted_label_is_the_suggestion_for_an_issue_and_else_what_was_said_most(
    agreeing: int | None, alternative: int, wrong: bool, predicted: str | None
) -> None:
    # Sample 0 of 600; the held-out losses alone say which labels are wrong, 100 of them.
    size = 600
    bad = np.arange(size) % 6 == (0 if wrong else 1)
    losses = np.where(bad, 9, 0.01).astype(np.float32)
    counts, said, other = np.full(size, 10), np.full(size, 10), np.full(size, -1)
    counts[0], said[0], other[0] = agreeing or 0, 0 if agreeing is None else 10, alternative
    facts = made_facts(
        size, suspicion=losses, held_out=losses, mean_loss=losses, agreeing=counts, predictions=said, alternative=other
    )
    row = judged_table(facts, np.arange(size) % 3, class_names=NAMES)[0].iloc[0]
    assert row["is_label_issue"] == wrong
    assert row["given_label"] == "ant"
    assert row["predicted_label"] == predicted if predicted else pd.isna(row["predicted_label"])


def test_without_predictions_the_same_samples_are_suspects_and_none_is_suggested() -> None:
    run = made(predict=False)
    report = audit.table(run.pruner, run.given)
    assert report["predicted_label"].isna().all()
    assert average_precision_score(run.wrong, report["p_wrong"]) > 0.95


@pytest.mark.parametrize("preset", ["full", "infobatch", "dynamic-random", "seta"])
def test_methods_that_hold_nobody_out_have_a_report_too(preset: str) -> None:
    run = made(preset, epochs=12)
    report = audit.table(run.pruner, run.given)
    assert average_precision_score(run.wrong, report["p_wrong"]) > 0.9
    assert report["first_flagged_epoch"].isna().all()


def test_samples_never_seen_or_without_a_label_are_rows_of_which_nothing_is_said() -> None:
    run = made("dynamic-random", size=200, epochs=1, unlabelled=30)
    report = audit.table(run.pruner, run.given)
    seen = np.zeros(200, dtype=bool)
    seen[run.epochs[0][2].indices] = True
    silent = ~seen | (run.given < 0)
    assert 30 < silent.sum() < 200
    assert report["p_wrong"].isna().tolist() == silent.tolist()
    assert report["label_score"].isna().tolist() == silent.tolist()
    assert not report["is_label_issue"][silent].any()
    assert (report["mean_loss"].isna() == silent).all()
    assert report["given_label"].isna().tolist() == (run.given < 0).tolist()


# -- labels and names --------------------------------------------------------------------------------------


def test_labels_that_are_names_give_the_table_of_class_ids_with_these_names() -> None:
    one, other = made(), made(named=lambda given: np.array(NAMES)[given])
    by_id = audit.table(one.pruner, one.given, class_names=NAMES)
    same(audit.table(other.pruner, np.array(NAMES)[one.given]), by_id)
    same(audit.table(other.pruner, [NAMES[y] for y in one.given], class_names=NAMES), by_id)
    bare = audit.table(one.pruner, one.given)
    assert set(bare["given_label"]) == {"0", "1", "2"}
    same(bare.drop(columns=["given_label", "predicted_label"]), by_id.drop(columns=["given_label", "predicted_label"]))
    for name in ("given_label", "predicted_label"):
        assert [NAMES[int(y)] for y in bare[name]] == by_id[name].tolist()


@pytest.mark.parametrize(
    "given",
    [
        lambda y: torch.from_numpy(y),
        lambda y: torch.from_numpy(y.astype(np.int8)),
        lambda y: y.tolist(),
        lambda y: [None if one < 0 else one for one in y.tolist()],
        lambda y: pd.Series(y, index=range(1000, 1000 + len(y))),
        lambda y: [None if one < 0 else NAMES[one] for one in y],
    ],
    ids=["int64", "int8", "list", "None", "Series", "names"],
)
def test_labels_come_in_the_kinds_that_a_pruner_takes(given: Any) -> None:
    run = made(size=300, unlabelled=10, epochs=15, named=given)
    plain = made(size=300, unlabelled=10, epochs=15)
    report = audit.table(run.pruner, given(run.given))
    expected = audit.table(plain.pruner, plain.given)
    for name in ("given_label", "predicted_label"):
        expected[name] = report[name] = report[name].isna()
    same(report, expected)
    assert report["given_label"].sum() == 10


def test_a_class_that_was_predicted_and_never_given_has_its_number_for_a_name() -> None:
    alternative = np.full(60, 4)
    report, _, names = judged_table(
        made_facts(60, agreeing=np.zeros(60, dtype=int), alternative=alternative), np.arange(60) % 2
    )
    assert names == ["0", "1", "2", "3", "4"]
    assert set(report["predicted_label"]) == {"4"}


def test_a_hundred_classes_and_thirty_samples_are_no_special_cases() -> None:
    run = made("full", size=3_000, classes=100, epochs=5)
    report = audit.table(run.pruner, run.given)
    assert average_precision_score(run.wrong, report["p_wrong"]) > 0.95
    assert (report["predicted_label"] == run.true.astype(str)).mean() > 0.95
    few = made(size=30, epochs=10)
    assert len(audit.table(few.pruner, few.given)) == 30


def test_labels_of_one_class_cannot_be_wrong_of_another() -> None:
    run = made(size=100, classes=1)
    report = audit.table(run.pruner, run.given)
    assert not report["is_label_issue"].any()
    assert report["p_wrong"].isna().all()


def test_ids_are_the_positions_or_what_they_are_called() -> None:
    run = made("full", size=30, epochs=1)
    assert audit.table(run.pruner, run.given)["id"].tolist() == [str(i) for i in range(30)]
    for ids in ([f"{i}/x" for i in range(30)], np.arange(30) + 5, pd.Series(range(7, 37), index=range(30, 0, -1))):
        assert audit.table(run.pruner, run.given, ids=ids)["id"].tolist() == [str(one) for one in ids]


def test_a_part_of_a_data_set_is_named_by_its_places_there() -> None:
    run, places = made("full", size=30, epochs=1), torch.randperm(100)[:30]
    for given in (places, places.numpy(), places.tolist()):
        report = audit.table(run.pruner, run.given, places=given)
        assert report["index"].tolist() == places.tolist()
        assert report["id"].tolist() == [str(place) for place in places.tolist()]
    assert audit.table(run.pruner, run.given, places=places, ids=range(30))["id"].tolist() == [*map(str, range(30))]


# -- refusals ----------------------------------------------------------------------------------------------


def refused(message: str, labels: Any = None, mistake: type[Exception] = ValueMistake, **settings: Any) -> None:
    run = made("full", size=30, epochs=2)
    with pytest.raises(mistake, match=message):
        audit.table(run.pruner, run.given if labels is None else labels, **settings)


@pytest.mark.parametrize(
    "places, message",
    [
        (range(29), r"places=int64 \(29,\) is not one a sample, expected integers \[30\]"),
        (np.arange(30.0), r"places=float64 \(30,\) is not one a sample"),
        (range(-1, 29), r"places=int64 \(30,\) holds a negative number or one twice"),
        ([*range(29), 0], r"places=int64 \(30,\) holds a negative number or one twice"),
    ],
)
def test_places_that_are_not_one_a_sample_are_refused(places: Any, message: str) -> None:
    refused(message, places=places)


def test_labels_of_another_data_set_are_refused() -> None:
    given = made("full", size=30, epochs=2).given
    other = given.copy()
    other[3] = (other[3] + 1) % 3
    refused("labels are others than those that the pruner was made with", other)
    refused("labels are others", given[::-1].copy())
    refused(r"expected \[30\]", given[:-1])
    refused("no class names", given.astype(float), TypeMistake)


def test_class_names_that_do_not_fit_are_refused() -> None:
    refused(r"class_names=2 names are there, expected 3, since class id 2", class_names=("a", "b"))
    refused(r"class_names='a' stands for two classes", class_names=("a", "b", "a"))
    refused(r"class_names='1' stands for two classes", class_names=("1", 1, "2"))


def test_class_names_beside_labels_that_are_names_are_refused_unless_they_are_the_same() -> None:
    # Anything else would call the samples by other names than their own.
    run = made("full", size=30, epochs=2, named=lambda given: np.array(NAMES)[given])
    labels = [NAMES[y] for y in run.given]
    for names in (NAMES[::-1], (*NAMES, "dog"), NAMES[:2]):
        with pytest.raises(ValueMistake, match="beside labels that are names"):
            audit.table(run.pruner, labels, class_names=names)


def test_predictions_beyond_the_names_are_refused() -> None:
    facts = made_facts(60, agreeing=np.zeros(60, dtype=int), alternative=np.full(60, 4))
    with pytest.raises(ValueMistake, match="class_names=2 names are there, expected 5, since class id 4"):
        judged_table(facts, ["a", "b"] * 30)


@pytest.mark.parametrize("label", [-1, -5, 2**31, 2**40])
def test_integers_that_are_no_class_ids_are_refused(label: int) -> None:
    with pytest.raises(ValueMistake, match=r"labels\[2\] is no class id"):
        judged_table(made_facts(60), [0, 1, label, *[0, 1, 1] * 19])


def test_ids_that_do_not_fit_are_refused() -> None:
    refused("ids=29 are given, expected 30", ids=range(29))
    refused("ids='7' stands for two samples", ids=[*range(29), 7])
    refused("ids='7' stands for two samples", ids=[*range(29), "7"])


def test_a_report_raises_no_warning_of_its_arithmetic() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for run in (made(size=50, unlabelled=50), made(size=40, predict=False), made("dynamic-random", 30, epochs=1)):
            audit.table(run.pruner, run.given)
        facts = audit.facts(made().pruner)
        judged_table(dataclasses.replace(facts, labels=0), [0, *[None] * 599])


# -- cleanlab ----------------------------------------------------------------------------------------------


def test_a_datalab_reads_the_table_as_its_own() -> None:
    cleanlab = pytest.importorskip("cleanlab", reason="cleanlab is not installed")
    run = digits()
    names = [f"digit {i}" for i in range(10)]
    report = audit.table(run.pruner, run.given, class_names=names)
    given = [names[y] for y in run.given]
    p = np.full((len(given), 10), 0.02)
    p[np.arange(len(given)), run.true] = 0.82
    lab = cleanlab.Datalab({"x": list(range(len(given))), "y": given}, label_name="y", verbosity=0)
    lab.find_issues(pred_probs=p, issue_types={"label": {}})
    theirs = lab.get_issues("label")
    ours = report[list(theirs.columns)]
    assert dict(ours.dtypes) == dict(theirs.dtypes)
    assert ours.index.equals(theirs.index)
    assert ours["given_label"].tolist() == theirs["given_label"].tolist() == given
    assert (ours["predicted_label"] == theirs["predicted_label"]).mean() > 0.95
    # Low is bad in both: their issues have low scores, and ours do.
    for one in (ours, theirs):
        assert one["label_score"].between(0, 1).all()
        assert one["label_score"][one["is_label_issue"]].max() < one["label_score"][~one["is_label_issue"]].median()
    assert (ours["is_label_issue"] == theirs["is_label_issue"]).mean() > 0.95


def test_the_lines_of_the_page_load_the_table_into_a_datalab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for library in ("cleanlab", "pyarrow"):
        pytest.importorskip(library, reason="cleanlab or pyarrow is not installed")
    run = made(unlabelled=25)
    report = audit.table(run.pruner, run.given, class_names=NAMES)
    report.loc[100, "predicted_label"] = None
    (tmp_path / "report").mkdir()
    report.to_parquet(tmp_path / "report/label_issues.parquet")
    monkeypatch.chdir(tmp_path)
    lines = re.search(r"## Datalab.*?```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    assert lines is not None
    scope: dict[str, Any] = {"pd": pd}  # the page has imported it above
    exec(lines[1], scope)
    found = scope["lab"].get_issues("label")
    expected = report[report["given_label"].notna()].reset_index(drop=True).fillna({"predicted_label": "None"})
    pd.testing.assert_frame_equal(found, expected[list(found.columns)], check_dtype=False)
    assert list(found.columns) == ["is_label_issue", "label_score", "given_label", "predicted_label"]
    assert scope["lab"].get_issue_summary()["num_issues"].tolist() == [report["is_label_issue"].sum()]
    scope["lab"].report()
