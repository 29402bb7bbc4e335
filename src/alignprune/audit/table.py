"""The table of the label report: a row a training sample, the columns of cleanlab's Datalab first, then ours."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from alignprune._checks import described
from alignprune._tensors import UNLABELLED, class_codes, fingerprint
from alignprune.audit.decisions import as_written
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
    places: Any = None,
) -> pd.DataFrame:
    """A row a training sample: what its label is, what it probably should be, and how sure that is.

    Args:
        source: the pruner of the training, after any epoch, or a state that its `state_dict` returned. It has to have
            been made with ``labels``; suggestions need ``reduce(..., predictions=logits.argmax(1))``.
        labels: [N], the given labels, as the pruner got them.
        class_names: names of the C classes, each once, where labels are class ids 0 to C - 1; None = the labels are the
            names.
        ids: what you call the samples, N file names or keys, each once; None = their places.
        places: integers [N], each once, where the samples stand in your data set if you trained on a part of it;
            None = they are all of it.

    Returns:
        a frame with N rows in the order of the labels: ``index`` int64 (the place), ``id`` str, ``given_label`` str
        (missing = unlabelled), ``predicted_label`` str (the suggestion for an issue, else what the network said most;
        missing = it said nothing), ``is_label_issue`` bool, ``label_score`` float64 in [0, 1], low = bad (NaN as
        ``p_wrong``), ``p_wrong`` float64, the probability that the given label is wrong (NaN = nothing can be said:
        unlabelled, never seen, or all labels are of one class), ``first_flagged_epoch`` Int64, from 1 (NA = never),
        ``times_trained`` and ``times_held_out`` int64 epochs, ``mean_loss`` and ``held_out_loss`` float64 (NaN =
        none).

    Raises:
        TypeMistake, ValueMistake: for a source without a journal, labels, names or ids that do not fit it.
    """
    return judged_table(facts(source), labels, class_names=class_names, ids=ids, places=places)[0]


def judged_table(
    known: Facts,
    labels: Any,
    *,
    class_names: Sequence[str] | None = None,
    ids: Sequence[str] | None = None,
    places: Any = None,
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
    if (unknown := np.flatnonzero((codes.numpy() >= 0) & (given < 0))).size:
        raise ValueMistake(
            f"labels[{unknown[0]}] is no class id, expected one of 0 to C - 1, or {UNLABELLED} where a sample has no "
            "label: number the classes as the network's outputs are"
        )
    names = _names(labels, max(given.max(initial=-1), known.alternative.max(initial=-1)) + 1, class_names)
    index = _index(places, size)
    names, keys = ([as_written(name) for name in texts] for texts in (names, _ids(ids, index)))
    judged = judge(known, given, len(names))
    issue = np.nan_to_num(judged.p_wrong) > ISSUE
    text = pd.Series([""]).dtype  # of this release of pandas: also of a column in which all is missing
    frame = pd.DataFrame(
        {
            "index": index,
            "id": keys,
            "given_label": pd.Series(_named(given, names), dtype=text),
            "predicted_label": pd.Series(_named(_predicted(known, given, issue), names), dtype=text),
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
    found: NDArray[Any] = np.where(agrees & (known.agreeing > 0), given, known.alternative)
    return found


def _names(labels: Any, needed: int, class_names: Sequence[str] | None) -> list[str]:
    """Names of the class ids, of which ``needed`` are given or predicted."""
    values = labels.tolist() if hasattr(labels, "tolist") else list(labels)
    own = sorted({value for value in values if isinstance(value, str)})
    if class_names is None:
        names = own or [str(i) for i in range(needed)]
    else:
        names = [str(name) for name in class_names]
    if own and names != own:
        raise ValueMistake(
            f"class_names={names[:3]}... are given beside labels that are names, {own[:3]}..., expected none, or these "
            "in their order: leave class_names out"
        )
    if len(set(names)) < len(names):
        raise ValueMistake(
            f"class_names={_twice(names)!r} stands for two classes, expected each once: rename one of them"
        )
    if len(names) < needed:
        raise ValueMistake(
            f"class_names={len(names)} names are there, expected {needed}, since class id {needed - 1} is given or "
            "predicted: pass a name for each class id, in order, and labels that are class ids"
        )
    return names


def _index(places: Any, size: int) -> NDArray[np.int64]:
    """Where the samples stand in the data set of the user."""
    if places is None:
        return np.arange(size)
    index = np.asarray(places)
    if index.dtype.kind not in "iu" or index.shape != (size,):
        raise ValueMistake(
            f"places={described(index)} is not one a sample, expected integers [{size}]: the place of each sample in "
            f"your data set"
        )
    if size and (int(index.min()) < 0 or len(np.unique(index)) < size):
        raise ValueMistake(
            f"places={described(index)} holds a negative number or one twice, expected each place once: pass the "
            f"indices of the part that was trained on"
        )
    return index.astype(np.int64)


def _ids(ids: Sequence[str] | None, index: NDArray[np.int64]) -> list[str]:
    size = len(index)
    if ids is None:
        return [str(place) for place in index.tolist()]
    if len(ids) != size:
        raise ValueMistake(f"ids={len(ids)} are given, expected {size}: a name for each sample, in order")
    keys = [str(key) for key in ids]
    if len(set(keys)) < size:
        raise ValueMistake(f"ids={_twice(keys)!r} stands for two samples, expected each once: rename one of them")
    return keys


def _twice(names: list[str]) -> str:
    """The name that is there most often."""
    return Counter(names).most_common(1)[0][0]


def _named(codes: NDArray[Any], names: list[str]) -> NDArray[Any]:
    """Names of class ids, None for -1."""
    named: NDArray[Any] = np.array([*names, None], dtype=object)[codes]
    return named
