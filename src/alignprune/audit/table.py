"""The table of the label report: a row a training sample, the columns of cleanlab's Datalab first, then ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from alignprune._tensors import class_codes, fingerprint
from alignprune.audit.facts import Facts, facts
from alignprune.audit.judgement import Judgement, judge
from alignprune.errors import ValueMistake
from alignprune.pruner import Pruner

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

ISSUE = 0.5
"""Probability to be wrong from which on a label is an issue."""


def table(
    source: Pruner | Mapping[str, Any],
    labels: Any,
    *,
    class_names: Sequence[str] | None = None,
    ids: Sequence[str] | None = None,
) -> pd.DataFrame:
    """A row a training sample: what its label is, what it probably should be, and how sure that is.

    Args:
        source: the pruner of the training, after any epoch, or a state that its `state_dict` returned. It has to have
            been made with ``labels``; suggestions need ``reduce(..., predictions=logits.argmax(1))``.
        labels: [N], the given labels, as the pruner got them.
        class_names: names of the C classes, where labels are class ids 0 to C - 1; None = the labels are the names.
        ids: what you call the samples, N file names or keys, each once; None = their positions.

    Returns:
        a frame with N rows in the order of the data set: ``index`` int64, ``id`` str, ``given_label`` str (None =
        unlabelled), ``predicted_label`` str (the suggestion for an issue, else what the network said most; None = it
        said nothing), ``is_label_issue`` bool, ``label_score`` float64 in [0, 1], low = bad, ``p_wrong`` float64, the
        probability that the given label is wrong (NaN = unlabelled or never seen), ``first_flagged_epoch`` Int64,
        from 1 (NA = never), ``times_trained`` and ``times_held_out`` int64 epochs, ``mean_loss`` and ``held_out_loss``
        float64 (NaN = none).

    Raises:
        TypeMistake, ValueMistake: for a source without a journal, labels, names or ids that do not fit it.
    """
    return judged_table(facts(source), labels, class_names=class_names, ids=ids)[0]


def judged_table(
    known: Facts, labels: Any, *, class_names: Sequence[str] | None = None, ids: Sequence[str] | None = None
) -> tuple[pd.DataFrame, Judgement, list[str]]:
    """The table, the judgement it is made of, and the names of the classes."""
    import pandas as pd

    size = len(known)
    codes, ids_given = class_codes(labels, size)
    if known.labels and fingerprint(codes.numpy().tobytes()) != known.labels:
        raise ValueMistake(
            "labels are others than those that the pruner was made with, expected the same in the same order: pass the "
            "labels of the training"
        )
    given = ids_given.numpy()
    names = _names(labels, given, class_names)
    if (given.max(initial=-1)) >= len(names) or known.alternative.max(initial=-1) >= len(names):
        raise ValueMistake(
            f"class_names={len(names)} names are given, expected {max(given.max(), known.alternative.max()) + 1}: one "
            "for each class id, in order"
        )
    keys = _ids(ids, size)
    judged = judge(known, given, len(names))
    issue = np.nan_to_num(judged.p_wrong) > ISSUE
    frame = pd.DataFrame(
        {
            "index": np.arange(size),
            "id": keys,
            "given_label": _named(given, names),
            "predicted_label": _named(_predicted(known, given, issue), names),
            "is_label_issue": issue,
            "label_score": judged.label_score,
            "p_wrong": judged.p_wrong,
            "first_flagged_epoch": pd.array(known.first_flagged + 1, dtype="Int64"),
            "times_trained": known.times_trained.astype(np.int64),
            "times_held_out": known.times_held_out.astype(np.int64),
            "mean_loss": known.mean_loss.astype(np.float64),
            "held_out_loss": known.held_out_loss.astype(np.float64),
        }
    )
    frame.loc[known.first_flagged < 0, "first_flagged_epoch"] = pd.NA
    return frame, judged, names


def _predicted(known: Facts, given: NDArray[Any], issue: NDArray[np.bool_]) -> NDArray[Any]:
    """Class ids, -1 = nothing predicted: what speaks against the label of an issue, else what was said most."""
    agrees = (2 * known.agreeing >= known.predictions) & ~(issue & (known.alternative >= 0))
    found = np.where(agrees & (known.agreeing > 0), given, known.alternative)
    return np.where(known.predictions > 0, found, -1)


def _names(labels: Any, given: NDArray[Any], class_names: Sequence[str] | None) -> list[str]:
    if class_names is not None:
        return [str(name) for name in class_names]
    values = labels.detach().cpu().numpy() if hasattr(labels, "detach") else np.asarray(labels)
    if values.dtype.kind in "iub" or all(isinstance(value, int) or value is None for value in values.tolist()):
        return [str(i) for i in range(int(given.max(initial=-1)) + 1)]
    return sorted({str(value) for value in values.tolist() if value is not None})


def _ids(ids: Sequence[str] | None, size: int) -> list[str]:
    if ids is None:
        return [str(i) for i in range(size)]
    if len(ids) != size:
        raise ValueMistake(f"ids={len(ids)} are given, expected {size}: a name for each sample, in order")
    keys = [str(key) for key in ids]
    if len(set(keys)) < size:
        seen: set[str] = set()
        twice = next(key for key in keys if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueMistake(f"ids={twice!r} stands for two samples, expected each once: rename one of them")
    return keys


def _named(codes: NDArray[Any], names: list[str]) -> NDArray[Any]:
    """Names of class ids, None for -1."""
    named: NDArray[Any] = np.array([*names, None], dtype=object)[codes]
    return named
