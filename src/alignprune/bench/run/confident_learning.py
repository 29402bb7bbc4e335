"""Confident learning inside a run: what a cross-validation's probabilities say is wrong is left out for good.

The rule is cleanlab's filter at its defaults, "prune by noise rate": from each class as many samples are flagged as the
confident joint estimates to be of another one, those first whose probability lies farthest below that of the other.

Source: Northcutt, Jiang and Chuang, "Confident Learning: Estimating Uncertainty in Dataset Labels", JAIR 2021.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alignprune._checks import integer
from alignprune.bench.data import ClassificationData
from alignprune.bench.reading import naming
from alignprune.bench.run.config import TrainConfig
from alignprune.bench.run.folder import RESULT, read_result
from alignprune.bench.run.out_of_fold import FILE, OutOfFold
from alignprune.errors import MissingExtra, MissingFile, ValueMistake

_REMEDY = "give the folder of a finished run with --method full --folds 5"


def out_of_fold(config: TrainConfig, data: ClassificationData) -> OutOfFold:
    """What the networks of the run's cross-validation see in its samples.

    Args:
        config: the run.
        data: all samples that it may choose among.

    Raises:
        FileNotFoundError: if the cross-validation is not there, or not finished.
        ValueError: if none is given, or it is of other samples or labels.
        ImportError: if cleanlab is not installed.
    """
    folder = _folder(config)
    refuse_without_cleanlab()
    found = OutOfFold.load(folder)
    if not torch.equal(found.labels, data.labels):
        raise ValueMistake(
            f"cross_validation={str(folder)!r} is a run on other samples or labels than this one, expected the same: "
            f"give one of the same data set, noise, seed, limit and holdouts"
        )
    return found


def kept(config: TrainConfig, data: ClassificationData) -> Tensor:
    """The samples whose label is not flagged, int64 [n], ascending.

    Args, Raises: as in `out_of_fold`; a ValueError, too, if all are flagged.
    """
    found = out_of_fold(config, data)
    left = torch.from_numpy(~flagged(found.labels, found.probabilities)).nonzero().squeeze(1)
    if not len(left):
        raise ValueMistake(
            f"cross_validation={str(config.earlier.cross_validation)!r} flags all {len(data.labels)} labels, expected "
            f"some to be left: {_REMEDY} whose networks have learned something"
        )
    return left


def cost(config: TrainConfig) -> int:
    """Forward passes of the cross-validation, looks included; 0 for a run that needs none."""
    if not config.pruning.without_issues:
        return 0
    folder = _folder(config)
    result = read_result(folder)
    with naming(f"cross_validation={str(folder)!r}: {RESULT}"):
        return integer("forward_passes", result.get("forward_passes"), at_least=0, remedy=_REMEDY)


def flagged(labels: Tensor, probabilities: Tensor) -> NDArray[np.bool_]:
    """Which labels cleanlab's filter holds for wrong.

    Args:
        labels: given class ids, int64 [N].
        probabilities: of each class, by networks that were not trained on the sample, float32 [N, C].

    Returns:
        bool [N].
    """
    found: NDArray[np.bool_] = cleanlab().filter.find_label_issues(
        labels.numpy(), distributions(probabilities), n_jobs=1
    )
    return found


def distributions(probabilities: Tensor) -> NDArray[np.float64]:
    """Probabilities as cleanlab takes them, float64 [N, C]: rows that sum to 1."""
    found = probabilities.double().numpy()
    return found / found.sum(1, keepdims=True)


def refuse_without_cleanlab() -> None:
    """Refuse, before it is run, a cross-validation whose probabilities could not be judged.

    Raises:
        ImportError: if cleanlab is not installed.
    """
    if importlib.util.find_spec("cleanlab") is None:
        raise MissingExtra(
            "cleanlab is not installed, expected it to rank by the probabilities of a cross-validation: pip install "
            "'alignprune[rivals]', then repeat the command"
        )


def cleanlab() -> Any:
    """The library, which is an extra."""
    refuse_without_cleanlab()
    import cleanlab.count
    import cleanlab.filter
    import cleanlab.rank

    return cleanlab


def _folder(config: TrainConfig) -> Path:
    """The folder of the finished cross-validation."""
    folder = config.earlier.cross_validation
    if folder is None:
        raise ValueMistake(
            "cross_validation=None is missing with without_issues, expected the folder of a cross-validation: run "
            "--method full --folds 5 on the same data, then give its folder with --cross-validation"
        )
    if not (folder / RESULT).exists() or not (folder / FILE).exists():
        raise MissingFile(
            f"cross_validation={str(folder)!r} is no finished cross-validation, expected the folder of one: wait for "
            f"it, or {_REMEDY}"
        )
    return folder
