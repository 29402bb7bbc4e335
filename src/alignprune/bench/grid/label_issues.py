"""How well, and at which cost, each way of ranking the labels finds the wrong ones.

One training, pruned to half or not, gives every statistic that can be read from it; its rival is confident learning by
five-fold cross-validation of the same network and recipe, with cleanlab's rules. All are judged by the same truth,
which none of them sees, but for the paper's score, which has a clean reference.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from alignprune.bench.grid.cells import Cell, Protocol, Settings, title_of

HUMAN = "cifar100n-pretrained"
"""The data set of human noise that networks for features are trained on."""

MEASURE = "average_precision"

# -- columns -----------------------------------------------------------------------------------------------

_FEATURES = {"model": "mlp", "recipe": "features", "device": "cpu", "evaluate_every": 30}
_DIGITS = {"dataset": "digits", "model": "mlp", "recipe.epochs": 40, "device": "cpu", "evaluate_every": 40}
_IMAGES = {"dataset": "cifar100n", "workers": 4}
_SYMMETRIC: dict[float, Settings] = {
    rate: {"noise": "symmetric", "noise_rate": rate} for rate in (0.05, 0.1, 0.2, 0.4, 0.5)
}
_PAIRFLIP: dict[str, Settings] = {"pairflip_0.2": {"noise": "pairflip", "noise_rate": 0.2}}
_REAL: dict[str, Settings] = {"real": {"noise": "real"}}


def _symmetric(*rates: float) -> dict[str, Settings]:
    return {f"sym_{rate:g}": _SYMMETRIC[rate] for rate in rates}


@dataclass(frozen=True)
class _Data:
    """A data set.

    Attributes:
        block: what the table calls it.
        noises: by column.
        settings: by protocol; a protocol that is absent leaves it out.
        meaningless: rankings that its recipe leaves without a meaning.
    """

    block: str
    noises: Mapping[str, Settings]
    settings: Mapping[str, Settings]
    meaningless: tuple[str, ...] = ()


# They read a probability off the loss, which the label smoothing of a recipe does not let fall to 0.
_OF_PLAIN_LOSSES = ("share of wrong events", "mean error probability")

_DATA = (
    _Data("digits", _symmetric(0.05, 0.1, 0.2, 0.4), {"cpu": _DIGITS}),
    _Data(
        "NEWS, 20 groups, word vectors",
        _symmetric(0.05, 0.1, 0.2, 0.5) | _PAIRFLIP,
        {"cpu": {**_FEATURES, "dataset": "news20-document"}},
    ),
    _Data("CIFAR-100N, features of a pretrained network", _REAL, {"cpu": {**_FEATURES, "dataset": HUMAN}}),
    _Data(
        "CIFAR-100N, images",
        _REAL | _symmetric(0.2),
        {
            "short": {**_IMAGES, "recipe.epochs": 30, "precision": "bf16", "evaluate_every": 10},
            "paper": _IMAGES,
        },
        _OF_PLAIN_LOSSES,
    ),
)

# -- rows --------------------------------------------------------------------------------------------------

_HALF = {"prune_ratio": 0.5, "budget": "equal", "trace": True}

_OF_EVERY_TRAINING = (
    "last loss",
    "mean loss, window 5",
    "mean loss since the start",
    "exponential mean, 0.9",
    *_OF_PLAIN_LOSSES,
    "area under the margin",
    "forgetting events",
    "share of other predictions",
)


@dataclass(frozen=True)
class _Way:
    """A run, and the rankings of its labels that are compared.

    Attributes:
        title: of its rows, before the name of the ranking.
        settings: beside those of the data.
        rankings: names of `alignprune.bench.results.rankings.RANKERS`.
    """

    title: str
    settings: Settings
    rankings: tuple[str, ...]


_WAYS = (
    _Way(
        title_of("robust"),
        {"method": "robust", **_HALF},
        (*_OF_EVERY_TRAINING, "held-out loss", "score of the run", "label report"),
    ),
    _Way(f"{title_of('robust')}, ELR", {"method": "robust", "loss": "elr-cifar10", **_HALF}, ("label report",)),
    _Way(
        "cleanlab, five folds",
        {"method": "full", "folds": 5},
        ("self-confidence", "normalized margin", "confidence-weighted entropy", "self-confidence, last epoch"),
    ),
    _Way(title_of("full"), {"method": "full", "trace": True}, (*_OF_EVERY_TRAINING, "label report")),
    _Way(
        title_of("infobatch+das"),
        {"method": "infobatch+das", **_HALF},
        ("score of the run", "alignment since the start"),
    ),
)


def rankings(protocol: Protocol) -> tuple[Cell, ...]:
    """Every way on every data set that the protocol has, under every noise."""
    return tuple(
        Cell(
            data.block,
            f"{way.title}: {ranking}",
            column,
            {**data.settings[protocol.name], **noise, **way.settings},
            measure=MEASURE,
            ranking=ranking,
        )
        for data in _DATA
        if protocol.name in data.settings
        for way in _WAYS
        for ranking in way.rankings
        if ranking not in data.meaningless
        for column, noise in data.noises.items()
    )
