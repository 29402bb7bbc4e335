"""What is said of a whole data set: each number against a loop over the rows, each warning where it is due."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alignprune import audit
from alignprune.audit import Accuracy
from alignprune.errors import TypeMistake, ValueMistake
from label_report import digits, made, made_facts

pd = pytest.importorskip("pandas", reason="the extra of the label report is not installed")

from alignprune.audit.table import judged_table  # noqa: E402

NAMES = ("ant", "bee", "cow", "dog")


def reported(facts: Any, labels: Any, names: Any = None, **settings: Any) -> tuple[Any, dict[str, Any]]:
    report, judged, classes = judged_table(facts, labels, class_names=names)
    found = audit.summary(report, facts, judged, classes, **{"name": "data", **settings})
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    return report, found


def of_run(run: Any, /, **settings: Any) -> tuple[Any, dict[str, Any]]:
    return reported(audit.facts(run.pruner), run.given, NAMES, **settings)


def test_every_number_is_that_of_a_loop_over_the_rows() -> None:
    run = made(unlabelled=25)
    report, found = of_run(run, name="insects", run={"seed": 0}, accuracy=Accuracy(0.9, "test"))
    rows = report.to_dict("records")
    facts = audit.facts(run.pruner)
    assert found["name"] == "insects"
    assert found["num_samples"] == 600
    assert found["num_label_issues"] == sum(row["is_label_issue"] for row in rows) > 50
    assert found["run"] == {"seed": 0}
    assert found["accuracy"] == {"value": 0.9, "on": "test", "labels": "test labels"}
    known = [row["p_wrong"] for row in rows if not math.isnan(row["p_wrong"])]
    assert found["noise_rate"]["estimate"] == pytest.approx(sum(known) / len(known))
    assert [one["name"] for one in found["classes"]] == list(NAMES)
    for one in found["classes"]:
        own = [row for row in rows if row["given_label"] == one["name"]]
        assert one["size"] == len(own)
        assert one["issues"] == sum(row["is_label_issue"] for row in own)
        if own:
            trained = [row["times_trained"] / facts.epochs for row in own]
            assert one["left_out_share"] == pytest.approx(1 - sum(trained) / len(own))
            assert one["noise_rate"] == pytest.approx(sum(row["p_wrong"] for row in own) / len(own))
    assert found["classes"][3] == {"name": "dog", "size": 0, "issues": 0, "left_out_share": None, "noise_rate": None}
    flips: dict[Any, list[float]] = {}
    for row in rows:
        if row["is_label_issue"] and row["given_label"] != row["predicted_label"]:
            flips.setdefault((row["given_label"], row["predicted_label"]), []).append(row["p_wrong"])
    assert {(one["given"], one["suggested"]) for one in found["flips"]} == set(flips)
    for one in found["flips"]:
        p = flips[one["given"], one["suggested"]]
        assert (one["count"], one["expected"]) == (len(p), pytest.approx(sum(p)))
    counts = [one["count"] for one in found["flips"]]
    assert counts == sorted(counts, reverse=True)


def test_an_issue_whose_own_label_is_said_and_one_without_a_suggestion_are_no_flips() -> None:
    facts = made_facts(60)
    report, judged, names = judged_table(facts, np.arange(60) % 2, class_names=NAMES)
    report["predicted_label"] = ["ant", "ant", None, *["bee"] * 57]
    report = report.assign(is_label_issue=np.arange(60) < 4, p_wrong=0.75)
    flips = audit.summary(report, facts, judged, names, name="data")["flips"]
    assert flips == [{"given": "bee", "suggested": "ant", "count": 1, "expected": 0.75}]


def test_the_noise_rate_of_a_training_is_near_the_truth_and_warns_of_nothing() -> None:
    run = digits()
    _, found = reported(audit.facts(run.pruner), run.given, accuracy=Accuracy(0.86, "holdout"))
    rate = found["noise_rate"]
    assert rate["estimate"] == pytest.approx(run.wrong.mean(), abs=0.03)
    assert rate["low"] <= rate["estimate"] <= rate["high"]
    assert rate["reason"] is None
    assert found["warnings"] == []
    assert found["accuracy"]["labels"] == "given labels, some of them wrong"


# -- where the rate cannot be told -------------------------------------------------------------------------


def test_the_rate_is_not_told_of_labels_that_an_earlier_report_decided_on() -> None:
    run = made(size=900)
    plain, rate = (of_run(run, decided=decided)[1]["noise_rate"] for decided in (False, True))
    assert plain["estimate"] is not None
    assert (rate["estimate"], rate["low"], rate["high"]) == (None, plain["low"], None)
    assert rate["reason"].startswith("the labels were decided on by an earlier report")


@pytest.mark.parametrize(
    "accuracy, told, high",
    [
        (Accuracy(0.80, "test"), True, None),
        (Accuracy(0.76, "test"), True, None),
        (Accuracy(0.74, "test"), False, None),
        # On given labels the wrong ones are missed as well: about a fifth here.
        (Accuracy(0.60, "holdout"), True, None),
        (Accuracy(0.40, "holdout"), False, 0.6),
    ],
)
def test_the_rate_is_not_told_where_the_network_misses_more_than_the_wrong_labels_explain(
    accuracy: Accuracy, told: bool, high: float | None
) -> None:
    run = made(size=900)
    _, plain = of_run(run)
    rate = of_run(run, accuracy=accuracy)[1]["noise_rate"]
    assert plain["noise_rate"]["estimate"] == pytest.approx(0.2, abs=0.03)
    if told:
        assert rate == plain["noise_rate"]
    else:
        assert rate["estimate"] is None
        assert rate["low"] == plain["noise_rate"]["low"]
        assert rate["high"] == (None if high is None else pytest.approx(high))
        assert f"misses {1 - accuracy.value:.0%} of the labels" in rate["reason"]
        assert f"at least {rate['low']:.1%}" in rate["reason"]


@pytest.mark.parametrize("preset", ["full", "infobatch"])
def test_a_run_that_held_nobody_out_says_so_in_the_place_of_an_estimate(preset: str) -> None:
    run = made(preset, epochs=8)
    found = of_run(run)[1]
    rate = found["noise_rate"]
    assert rate["estimate"] is rate["high"] is None
    assert rate["low"] is not None
    assert not any("too few to be told" in warning for warning in found["warnings"])
    assert rate["reason"].startswith("too few samples were held out")
    assert rate["reason"].endswith(
        ": train with robust for 30 epochs or more, which holds samples out once a network memorises"
    )
    both = of_run(run, accuracy=Accuracy(0.1, "test"))[1]["noise_rate"]
    assert both["estimate"] is None
    assert both["reason"].startswith(rate["reason"])
    assert "misses 90%" in both["reason"]


@pytest.mark.parametrize("accuracy", [None, Accuracy(0.1, "holdout")])
def test_of_one_class_or_no_labels_no_rate_is_told(accuracy: Accuracy | None) -> None:
    for labels in ([0] * 60, [-100] * 60):
        _, found = reported(made_facts(60), labels, NAMES, accuracy=accuracy)
        assert found["noise_rate"]["estimate"] is found["noise_rate"]["low"] is found["noise_rate"]["high"] is None
        assert "no labels of two classes or more" in found["noise_rate"]["reason"]
        assert not any("never read" in one or "expected" in one for one in found["warnings"])


@pytest.mark.parametrize("value", [-0.1, 1.1, math.nan, "high"])
def test_an_accuracy_is_a_share(value: Any) -> None:
    with pytest.raises((TypeMistake, ValueMistake), match="value="):
        Accuracy(value, "test")


def test_an_accuracy_is_of_test_samples_or_of_a_holdout() -> None:
    with pytest.raises(ValueMistake, match="on='hold-out' is unknown.*did you mean 'holdout'"):
        Accuracy(0.5, "hold-out")


# -- warnings ----------------------------------------------------------------------------------------------


def test_what_is_not_judged_is_counted() -> None:
    run = made("dynamic-random", size=200, epochs=1, unlabelled=30)
    seen = set(run.epochs[0][2].indices.tolist())
    unseen = sum(i not in seen for i in range(30, 200))
    warned = of_run(run)[1]["warnings"]
    assert warned[:2] == [
        "30 samples have no label: nothing is said of them",
        f"{unseen} samples were never read: nothing is said of their labels",
    ]


def test_a_run_without_predictions_says_why_nothing_is_suggested() -> None:
    _, found = of_run(made(predict=False))
    assert any(one.startswith("no predictions were recorded") for one in found["warnings"])
    assert found["flips"] == []
    assert not any("no predictions" in one for one in of_run(made())[1]["warnings"])


def test_few_wrong_labels_are_not_told_from_chance() -> None:
    size = 600
    facts = made_facts(size)
    report, judged, names = judged_table(facts, np.arange(size) % 3, class_names=NAMES)

    def warnings(p: float, held_out: bool) -> list[str]:
        of_twelve = report.assign(p_wrong=np.where(np.arange(size) < 12, p, 0.0))
        return audit.summary(of_twelve, facts, judged._replace(held_out=held_out), names, name="data")["warnings"]

    assert "about 11 wrong labels are expected, too few to be told from chance" in warnings(0.9, True)
    assert "hardly any wrong labels are expected, too few to be told from chance" in warnings(0.02, True)
    assert not any("are expected" in one for one in warnings(0.9, False))  # where nobody was held out it is no number


def test_a_class_that_loses_right_labels_with_its_issues_is_named() -> None:
    # Of the rare class, half of the labels are a little more probably wrong than right; of the others few are surely.
    size = 2_000
    labels = np.where(np.arange(size) < 40, 3, np.arange(size) % 3)
    p = np.where(np.arange(size) % 20 == 7, 0.99, 0.01)
    p[:20] = 0.6
    facts = made_facts(size)
    report, judged, names = judged_table(facts, labels, class_names=NAMES)
    report = report.assign(p_wrong=p, is_label_issue=p > 0.5)
    warned = audit.summary(report, facts, judged, names, name="data")["warnings"]
    # Of its 40 labels 20 * 0.4 + 1 * 0.01 + 19 * 0.99 = 26.8 are right; 20 * 0.4 + 0.01 = 8 of these among the issues.
    assert warned == ["class dog: of its about 27 right labels 8 are among the issues; look before you drop them"]


# -- the page ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["digits", "empty class", "no rate", "one class", "no predictions"])
def test_the_page_takes_the_table_and_the_summary_of_any_run(kind: str, tmp_path: Path) -> None:
    for library in ("jinja2", "altair", "vl_convert"):
        pytest.importorskip(library, reason="the extra of the label report is not installed")
    from alignprune.audit import page

    report, found = {
        "digits": lambda: reported(audit.facts(digits().pruner), digits().given),
        "empty class": lambda: of_run(made(unlabelled=25)),
        "no rate": lambda: of_run(made(), accuracy=Accuracy(0.2, "test")),
        "one class": lambda: reported(made_facts(60), [0] * 60, NAMES),
        "no predictions": lambda: of_run(made("dynamic-random", epochs=1, predict=False)),
    }[kind]()
    page.write(tmp_path / "report.html", report, found, rows=50)
    text = (tmp_path / "report.html").read_text("utf-8")
    assert ("not known" in text) == (found["noise_rate"]["estimate"] is None)
    assert f"of {len(report)} samples" in text.replace(",", "")
    assert text.count('data-value="">') >= 2 * sum(one["size"] == 0 for one in found["classes"])
    held = json.loads(text.split('id="data">')[1].split("</script>")[0])
    assert held["total"] == len(report)
    assert held["rows"]["p_wrong"] == [
        None if math.isnan(report["p_wrong"][i]) else report["p_wrong"][i] for i in page.shown(report, 50)
    ]


def test_a_summary_is_of_its_own_and_changes_nothing() -> None:
    run = made()
    facts = audit.facts(run.pruner)
    report, judged, names = judged_table(facts, run.given)
    copies = report.copy(), dataclasses.replace(facts, suspicion=facts.suspicion.copy())
    about = {"seed": 1}
    found = audit.summary(report, facts, judged, names, name="data", run=about)
    found["run"]["seed"] = 2
    assert about == {"seed": 1}
    pd.testing.assert_frame_equal(report, copies[0])
    np.testing.assert_array_equal(facts.suspicion, copies[1].suspicion)
