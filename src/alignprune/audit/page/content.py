"""What the page embeds: its rows, samples, losses and examples, and what is counted over the whole table."""

from __future__ import annotations

import base64
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from alignprune.audit import decisions
from alignprune.audit.page import charts, samples
from alignprune.errors import ValueMistake

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

_NEEDED = ("index", "id", "given_label", "predicted_label", "is_label_issue", "label_score", "p_wrong")
_EXAMPLES = 400  # of all classes together, at most 4 of each
_STEPS = 1000  # of the threshold


@dataclass(frozen=True, eq=False)
class Trajectories:
    """How the losses moved.

    Attributes:
        losses: of the n rows that are shown, float16 or float32 [E, n], in the order of `shown`; NaN = not seen.
        class_means: mean losses of the C classes, in the order of the summary, float32 [E, C]; NaN = not seen.
    """

    losses: NDArray[np.floating[Any]]
    class_means: NDArray[np.floating[Any]]


def shown(table: pd.DataFrame, rows: int = 2000) -> NDArray[np.int64]:
    """The samples that a page with so many rows shows, most suspicious first.

    Args:
        table: the label report.
        rows: how many rows the page holds at most.

    Returns:
        their indices, int64 [n], by falling p_wrong, then rising label score, then index; p_wrong of NaN comes last.
    """
    index: NDArray[np.int64] = table["index"].to_numpy()
    return index[_order(table)[:rows]]


def check(table: pd.DataFrame, summary: dict[str, Any]) -> None:
    """Refuse a table and a summary that do not belong together."""
    if missing := [name for name in _NEEDED if name not in table.columns]:
        raise ValueMistake(
            f"table has no {', '.join(missing)}, expected all of {', '.join(_NEEDED)}: pass the label report"
        )
    if len(table) != summary["num_samples"]:
        raise ValueMistake(
            f"table has {len(table)} rows, expected {summary['num_samples']}, the num_samples of the summary: pass "
            "both of the same run"
        )
    index = table["index"].to_numpy()
    if index.dtype.kind != "i" or len(np.unique(index)) < len(table) or index.min() < 0:
        raise ValueMistake(
            f"index holds a place twice or what is none, expected the places of the {len(table)} samples in the data "
            "set, each once: pass the table as it was made"
        )
    names = {one["name"] for one in summary["classes"]}
    for column in ("given_label", "predicted_label"):
        if unknown := sorted(set(table[column].dropna().unique()) - names):
            raise ValueMistake(
                f"{column} holds {unknown[0]!r}, expected one of the {len(names)} classes of the summary: pass both of "
                "the same run"
            )


def embedded(
    table: pd.DataFrame,
    summary: dict[str, Any],
    show: Callable[[int], samples.Sample] | None,
    trajectories: Trajectories | None,
    rows: int,
) -> dict[str, Any]:
    """All that the script of the page reads, as JSON has it."""
    top = table.iloc[_order(table)[:rows]]
    classes = [one["name"] for one in summary["classes"]]
    in_order = table.sort_values("index")
    flips = charts.flips(summary["flips"], classes)
    look = _Look(show)
    content = {
        "fingerprint": decisions.fingerprint(in_order["id"].tolist(), in_order["given_label"].tolist()),
        "total": len(table),
        "classes": classes,
        "columns": list(top.columns),
        "rows": {name: _plain(top[name]) for name in top.columns},
        "samples": None if show is None else [look(index) for index in top["index"].tolist()],
        "examples": {} if show is None else _examples(table, top, look),
        "above": _above(table),
        "curves": None if trajectories is None else _curves(trajectories, len(top), classes),
        "flips": flips,
        "histogram": charts.histogram(table["p_wrong"].to_numpy(dtype=np.float64)),
        "charts": charts.specs(flips["classes"]),
    }
    look.report()
    return content


class _Look:
    """Shows samples, and counts those that cannot be read."""

    def __init__(self, show: Callable[[int], samples.Sample] | None) -> None:
        self._show = show
        self._unreadable: list[int] = []

    def __call__(self, index: int) -> dict[str, Any]:
        assert self._show is not None
        sample = samples.embedded(self._show(index))
        if sample["kind"] == "unreadable":
            self._unreadable.append(index)
        return sample

    def report(self) -> None:
        if self._unreadable:
            first = ", ".join(map(str, self._unreadable[:3]))
            warnings.warn(
                f"{len(self._unreadable)} images could not be read and are not on the page, among them those of "
                f"samples {first}",
                stacklevel=4,
            )


def _order(table: pd.DataFrame) -> NDArray[np.int64]:
    # lexsort sorts by its last key first, and puts NaN last.
    keys = (table["index"], table["label_score"], -table["p_wrong"])
    order: NDArray[np.int64] = np.lexsort([key.to_numpy() for key in keys])
    return order


def _plain(column: pd.Series) -> list[Any]:
    """A column as JSON has it, with null for what is missing or not finite."""
    missing = column.isna() | column.isin([np.inf, -np.inf])
    return [None if absent else value for value, absent in zip(column.tolist(), missing.tolist(), strict=True)]


def _above(table: pd.DataFrame) -> dict[str, list[float]]:
    """For each threshold k / 1000 on p_wrong: how many samples, issues and expected wrong labels lie there or above."""
    known = table[table["p_wrong"].notna()].sort_values("p_wrong")
    p = known["p_wrong"].to_numpy(dtype=np.float64)
    first = np.searchsorted(p, np.arange(_STEPS + 1) / _STEPS)

    def from_there(amounts: NDArray[Any]) -> Any:
        return np.append(amounts[::-1].cumsum()[::-1], 0)[first]

    return {
        "samples": from_there(np.ones(len(p), dtype=np.int64)).tolist(),
        "issues": from_there(known["is_label_issue"].to_numpy(dtype=np.int64)).tolist(),
        "expected": from_there(p).round(1).tolist(),
    }


def _examples(table: pd.DataFrame, top: pd.DataFrame, look: _Look) -> dict[str, list[dict[str, Any]]]:
    """Random samples that the run trusts, for classes on the page: to see what a class looks like."""
    on_page = top["given_label"].value_counts().add(top["predicted_label"].value_counts(), fill_value=0)
    classes = on_page.sort_values(ascending=False, kind="stable").index[:_EXAMPLES]
    trusted = table[~table["is_label_issue"] & table["given_label"].isin(classes)]
    trusted = trusted[trusted["p_wrong"] <= trusted.groupby("given_label")["p_wrong"].transform("median")]
    # A fixed draw: the same report gives the same page.
    mixed = trusted.sort_values("index").sample(frac=1, random_state=0)
    each = max(1, min(4, _EXAMPLES // max(1, len(classes))))
    drawn = mixed.groupby("given_label").head(each)
    examples: dict[str, list[dict[str, Any]]] = {}
    for index, name, label in zip(drawn["index"].tolist(), drawn["id"], drawn["given_label"], strict=True):
        if (sample := look(index))["kind"] in ("image", "text"):
            examples.setdefault(label, []).append({"id": name, **sample})
    return examples


def _curves(trajectories: Trajectories, size: int, classes: list[str]) -> dict[str, Any]:
    losses, means = np.asarray(trajectories.losses), np.asarray(trajectories.class_means)
    expected = {"losses": size, "class_means": len(classes)}
    for name, found in (("losses", losses), ("class_means", means)):
        if found.ndim != 2 or found.shape != (len(losses), expected[name]):
            raise ValueMistake(
                f"{name} has the shape {list(found.shape)}, expected [{len(losses)}, {expected[name]}]: pass a row an "
                "epoch, and a column a row of the page or a class of the summary"
            )
    return {"epochs": len(losses), "losses": _halves(losses), "means": _halves(means)}


def _halves(values: NDArray[np.floating[Any]]) -> str:
    """Numbers [E, n] as float16 [n, E], little-endian in base64; what is not finite is NaN."""
    finite = np.where(np.isfinite(values), np.clip(values, -65504, 65504), np.nan)
    return base64.b64encode(finite.T.astype("<f2").tobytes()).decode()
