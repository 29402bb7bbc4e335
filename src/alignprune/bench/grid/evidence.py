"""Evidence: networks that people use, and what they would pick instead of pruning.

A head on the features of a pretrained network, its last stages, a small fast network from scratch, and the paper's
ResNet-18. Every method is there at half of the forward passes of a full training; what people pick instead is there at
its own cost. The gap that counts lies between stopping by a noisy hold-out, which is free, and the oracle, which trains
on the right labels alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from alignprune.bench.grid.cells import Cell, Protocol, Settings, title_of

_HALF = {"prune_ratio": 0.5, "budget": "equal"}
_HOLDOUT = {"stop_on_holdout": 0.1}
_ELR, _GCE, _SMOOTHING = {"loss": "elr-cifar10"}, {"loss": "gce"}, {"loss": "smoothing"}

_HEAD = {"recipe": "head"}
_SCRATCH = {"recipe": "scratch", "dataset": "cifar100n"}
_FINETUNE = {"recipe": "finetune", "dataset": "cifar100n", "image_size": 64, "limit": 10_000, "reference_size": 1_000}
_RESNET = {"dataset": "cifar100n", "workers": 4}
_NOISES: dict[str, Settings] = {
    "clean": {"noise": "clean"},
    "real": {"noise": "real"},
    **{f"sym_{rate:g}": {"noise": "symmetric", "noise_rate": rate} for rate in (0.05, 0.1, 0.2, 0.5)},
    "pairflip_0.2": {"noise": "pairflip", "noise_rate": 0.2},
}


@dataclass(frozen=True)
class _Data:
    """A data set of the comparison.

    Attributes:
        block: what the table calls it.
        columns: noises that all methods are compared under.
        wide: of these, those that the other rivals are compared under, too.
        settings: by protocol; a protocol that is absent leaves it out.
    """

    block: str
    columns: tuple[str, ...]
    wide: tuple[str, ...]
    settings: Mapping[str, Settings]


_DATA = (
    _Data(
        "CIFAR-100N, a head on EfficientNet-Lite0",
        ("clean", "sym_0.05", "sym_0.1", "real"),
        ("clean", "real"),
        {"pretrained": {**_HEAD, "dataset": "cifar100n-pretrained"}},
    ),
    _Data(
        "NEWS, 20 groups, a head on MiniLM",
        ("clean", "sym_0.2", "sym_0.5", "pairflip_0.2"),
        ("clean", "sym_0.5"),
        {"pretrained": {**_HEAD, "dataset": "news20-sentences"}},
    ),
    _Data(
        "CIFAR-100N, images from scratch",
        ("clean", "real"),
        ("real",),
        {"scratch": _SCRATCH, "scratch-40": {**_SCRATCH, "recipe.epochs": 40}},
    ),
    _Data(
        "CIFAR-100N, the last stages of EfficientNet-Lite0",
        ("clean", "real"),
        ("real",),
        {"finetune": _FINETUNE},
    ),
    _Data(
        "CIFAR-100N, ResNet-18",
        ("clean", "real"),
        ("real",),
        {"short": {**_RESNET, "recipe.epochs": 30, "precision": "bf16"}, "paper": _RESNET},
    ),
)

FULL, STOPPED, HOLDOUT, ORACLE = (
    title_of("full"),
    f"{title_of('full')}, stopped at half",
    "stopped by a noisy hold-out",
    "Oracle",
)

_ROWS: dict[str, Settings] = {
    FULL: {"method": "full"},
    STOPPED: {"method": "full", **_HALF},
    HOLDOUT: {"method": "full", **_HOLDOUT},
    "GCE, stopped at half": {"method": "full", **_HALF, **_GCE},
    "ELR": {"method": "full", **_ELR},
    "ELR, stopped at half": {"method": "full", **_HALF, **_ELR},
    title_of("infobatch"): {"method": "infobatch", **_HALF},
    title_of("infobatch+das"): {"method": "infobatch+das", **_HALF},
    title_of("robust"): {"method": "robust", **_HALF},
    f"{title_of('robust')}, GCE": {"method": "robust", **_HALF, **_GCE},
    f"{title_of('robust')}, label smoothing": {"method": "robust", **_HALF, **_SMOOTHING},
    f"{title_of('robust')}, ELR": {"method": "robust", **_HALF, **_ELR},
    ORACLE: {"method": "full", "oracle": True, **_HALF},
}

_SHOWN = (FULL, STOPPED, HOLDOUT, "ELR, stopped at half", f"{title_of('robust')}, ELR", ORACLE)

_RIVALS: dict[str, Settings] = {
    **{title_of(name): {"method": name, **_HALF} for name in ("rs2", "seta", "seta+das", "infobatch+bls")},
    **{title_of(name): {"method": name, **_HALF} for name in ("repb", "orderdp", "orderdp+das", "rcap")},
    "Label smoothing, stopped at half": {"method": "full", **_HALF, **_SMOOTHING},
    "SCE, stopped at half": {"method": "full", **_HALF, "loss": "sce-cifar100"},
    "EMA of the weights, stopped at half": {"method": "full", **_HALF, "ema": 0.99},
    "stopped by a noisy hold-out, patience 5": {"method": "full", **_HOLDOUT, "patience": 5},
    "ELR, stopped by a noisy hold-out": {"method": "full", **_HOLDOUT, **_ELR},
    f"{title_of('infobatch+das')}, ELR": {"method": "infobatch+das", **_HALF, **_ELR},
    "without the labels that cleanlab flags, stopped at half": {"method": "full", **_HALF, "without_issues": True},
}

_CO_TEACHING = "Co-teaching, the noise rate known"
_HUMAN_RATE = 0.4  # of CIFAR-100N


_ROBUST = {"method": "robust", **_HALF}
_CHOICES: dict[str, Settings] = {
    title_of("robust"): _ROBUST,
    **{
        f"ELR, beta {beta}, weight {weight}": {**_ROBUST, **_ELR, "loss.beta": beta, "loss.weight": weight}
        for beta in (0.7, 0.9)
        for weight in (1, 3, 7)
    },
    **{f"GCE, q {q}": {**_ROBUST, **_GCE, "loss.q": q} for q in (0.3, 0.7)},
    "label smoothing": {**_ROBUST, **_SMOOTHING},
}


# Without one ingredient each, beside what the best and the plainest can do; judged like the choices.
_RECOMMENDED = {**_ROBUST, **_ELR}
_ABLATIONS: dict[str, Settings] = {
    f"{title_of('robust')}, ELR": _RECOMMENDED,
    "cross-entropy as the loss": _ROBUST,
    "cross-entropy, and Bayes' rule alone re-admits": {**_ROBUST, "policy.least_agreement": 0.0},
    "Bayes' rule alone re-admits": {**_RECOMMENDED, "policy.least_agreement": 0.0},
    "without the labels: nobody re-admitted": {**_RECOMMENDED, "give_labels": False},
    "no second look at suspects": {**_RECOMMENDED, "policy.refresh": 0.0},
    "suspects left out at once": {**_RECOMMENDED, "policy.ramp": 1},
    "all losses count alike": {**_RECOMMENDED, "score.exponent": 0.0},
    "easy samples thinned out first": {**_RECOMMENDED, "policy.thinning": "easy"},
    "nothing left out as suspect": {**_RECOMMENDED, "policy.noise_rate": 0.0},
    STOPPED: _ROWS[STOPPED],
    ORACLE: _ROWS[ORACLE],
}


def comparison(protocol: Protocol) -> tuple[Cell, ...]:
    """The methods, and what people would pick first instead of them."""
    return _cells(protocol, _ROWS, wide=False)


def costs(protocol: Protocol) -> tuple[Cell, ...]:
    """Of the comparison, six rows that say what there is to choose between."""
    return tuple(cell for cell in comparison(protocol) if cell.row in _SHOWN)


def rivals(protocol: Protocol) -> tuple[Cell, ...]:
    """What else there is, under fewer noises."""
    co_teaching = (
        replace(cell, settings={**cell.settings, "co_teaching": _rate_of(cell.settings)})
        for cell in _cells(protocol, {_CO_TEACHING: {"method": "full"}}, wide=True)
    )
    return (*_cells(protocol, _RIVALS, wide=True), *co_teaching)


def choice(protocol: Protocol) -> tuple[Cell, ...]:
    """Losses for `robust`, judged on a tenth of the training samples, held out with their noisy labels."""
    return _cells(protocol, _held_out(_CHOICES), wide=False)


def ablation(protocol: Protocol) -> tuple[Cell, ...]:
    """What is recommended with one ingredient changed at a time, judged in the same way."""
    return _cells(protocol, _held_out(_ABLATIONS), wide=False)


def _rate_of(settings: Settings) -> float:
    """The share of wrong labels that is known to whom has to say one."""
    rate: float = settings.get("noise_rate", _HUMAN_RATE if settings["noise"] == "real" else 0.0)
    return rate


def _held_out(rows: Mapping[str, Settings]) -> dict[str, Settings]:
    """The rows, judged on a tenth of the training samples with the labels that they were given."""
    return {row: {**settings, "holdout": 0.1} for row, settings in rows.items()}


def _cells(protocol: Protocol, rows: Mapping[str, Settings], *, wide: bool) -> tuple[Cell, ...]:
    return tuple(
        Cell(data.block, row, column, {**data.settings[protocol.name], **_NOISES[column], **settings})
        for data in _DATA
        if protocol.name in data.settings
        for row, settings in rows.items()
        for column in (data.wide if wide else data.columns)
        if row != ORACLE or column != "clean"
    )
