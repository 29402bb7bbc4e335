"""What the label report says of a whole data set: how many labels are wrong, of which classes, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from alignprune._checks import choice, number
from alignprune.audit.facts import Facts
from alignprune.audit.judgement import Judgement

if TYPE_CHECKING:
    import pandas as pd

_UNEXPLAINED = 0.25  # share of labels that the network misses and the estimate does not explain
_FEWEST = 20  # expected wrong labels below which a rate is not told from chance
_LOST = 0.1  # share of the right labels of a class that would be lost with its issues


@dataclass(frozen=True)
class Accuracy:
    """How well the trained network does on samples that it was not trained on.

    Attributes:
        value: share of the labels that it predicts.
        on: "test" or "holdout"; the labels of a hold-out are given ones, some of them wrong.
    """

    value: float
    on: str

    def __post_init__(self) -> None:
        number("value", self.value, low=0, high=1, remedy="the share of the labels that are predicted")
        choice("on", self.on, ("test", "holdout"))


def summary(
    table: pd.DataFrame,
    known: Facts,
    judged: Judgement,
    class_names: Sequence[str],
    *,
    name: str,
    accuracy: Accuracy | None = None,
    decided: bool = False,
    run: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Summarise a report.

    Args:
        table: of the report.
        known: of the report.
        judged: of the report.
        class_names: C names.
        name: of the data set.
        accuracy: of the trained network, if it was measured.
        decided: whether the labels were decided on by an earlier report.
        run: what the run was, for the reader: plain values by name.

    Returns:
        plain values, as JSON has them: ``name``, ``num_samples``, ``num_label_issues``, ``noise_rate`` (``estimate``,
        None where it cannot be told, ``low`` and ``high`` as in `Judgement`, and the ``reason``), ``classes``,
        ``flips``, ``warnings``, ``accuracy``, ``run``.
    """
    classes = _classes(table, known, class_names)
    return {
        "name": name,
        "num_samples": len(table),
        "num_label_issues": int(table["is_label_issue"].sum()),
        "noise_rate": _noise_rate(judged, accuracy, decided),
        "classes": classes,
        "flips": _flips(table),
        "warnings": _warnings(table, known, judged, classes),
        "accuracy": None if accuracy is None else _described(accuracy),
        "run": dict(run or {}),
    }


def _noise_rate(judged: Judgement, accuracy: Accuracy | None, decided: bool) -> dict[str, Any]:
    if math.isnan(judged.noise_rate):
        reason = "there are no labels of two classes or more on samples that were read, so none can be judged"
        return {"estimate": None, "low": None, "high": None, "reason": reason}
    high, reasons = judged.high, []
    if not judged.held_out:
        reasons.append(
            "too few samples were held out to judge by, so every loss is taken for one of a sample that was: where the "
            "network learned its labels by heart, wrong ones are missed, and p_wrong is too low; label_score ranks all "
            "the same: train with robust for 30 epochs or more, which holds samples out once a network memorises"
        )
    if decided:
        reasons.append(
            "the labels were decided on by an earlier report, so the wrong ones that are left are those that such a "
            "network takes for right, and it cannot say how many; label_score ranks all the same"
        )
    bounded = not reasons
    missed = 0.0 if accuracy is None else 1 - accuracy.value
    given = accuracy is not None and accuracy.on == "holdout"  # its labels are as noisy as those that are judged
    if missed - (judged.noise_rate if given else 0.0) > _UNEXPLAINED:
        bounded, high = given, max(missed, high)
        reasons.append(
            f"the network itself misses {missed:.0%} of the labels that it was not trained on; what it cannot learn it "
            f"cannot judge, so the rate is at least {judged.low:.1%}, and may be much higher"
        )
    return {
        "estimate": None if reasons else judged.noise_rate,
        "low": judged.low,
        "high": high if bounded else None,
        "reason": "; ".join(reasons) or None,
    }


def _classes(table: pd.DataFrame, known: Facts, names: Sequence[str]) -> list[dict[str, Any]]:
    grouped = table.assign(trained=known.times_trained / max(1, known.epochs)).groupby("given_label")
    found = grouped.agg(
        size=("index", "size"), issues=("is_label_issue", "sum"), noise=("p_wrong", "mean"), trained=("trained", "mean")
    ).to_dict("index")
    nothing = {"size": 0, "issues": 0, "noise": math.nan, "trained": math.nan}
    rows = [(name, found.get(name, nothing)) for name in names]
    return [
        {
            "name": name,
            "size": int(row["size"]),
            "issues": int(row["issues"]),
            "left_out_share": None if math.isnan(row["trained"]) else 1 - float(row["trained"]),
            "noise_rate": None if math.isnan(row["noise"]) else float(row["noise"]),
        }
        for name, row in rows
    ]


def _flips(table: pd.DataFrame) -> list[dict[str, Any]]:
    issues = table[table["is_label_issue"] & table["predicted_label"].notna()]
    issues = issues[issues["given_label"] != issues["predicted_label"]]
    pairs = issues.groupby(["given_label", "predicted_label"])["p_wrong"].agg(["size", "sum"]).reset_index()
    pairs = pairs.sort_values(["size", "sum"], ascending=False, kind="stable")
    return [
        {"given": given, "suggested": suggested, "count": int(count), "expected": float(expected)}
        for given, suggested, count, expected in pairs.itertuples(index=False)
    ]


def _warnings(table: pd.DataFrame, known: Facts, judged: Judgement, classes: Sequence[dict[str, Any]]) -> list[str]:
    found = []
    unlabelled = int(table["given_label"].isna().sum())
    if unlabelled:
        found.append(f"{unlabelled} samples have no label: nothing is said of them")
    unseen = int((table["mean_loss"].isna() & table["given_label"].notna()).sum())
    if unseen:
        found.append(f"{unseen} samples were never read: nothing is said of their labels")
    if not known.predictions.any():
        found.append("no predictions were recorded, so no label is suggested: pass predictions=logits.argmax(1)")
    expected = float(np.nansum(table["p_wrong"]))
    if judged.held_out and expected < _FEWEST and table["p_wrong"].notna().any():
        count = "hardly any" if expected < 1 else f"about {expected:.0f}"
        found.append(f"{count} wrong labels are expected, too few to be told from chance")
    lost = table[table["is_label_issue"]].groupby("given_label")["p_wrong"].agg(lambda p: float((1 - p).sum()))
    for row in classes:
        right = row["size"] * (1 - (row["noise_rate"] or 0.0))
        if right and lost.get(row["name"], 0.0) > max(1.0, _LOST * right):
            found.append(
                f"class {row['name']}: of its about {right:.0f} right labels {lost[row['name']]:.0f} are among the "
                f"issues; look before you drop them"
            )
    return found


def _described(accuracy: Accuracy) -> dict[str, Any]:
    given = accuracy.on == "holdout"
    labels = "given labels, some of them wrong" if given else "test labels"
    return {"value": accuracy.value, "on": accuracy.on, "labels": labels}
