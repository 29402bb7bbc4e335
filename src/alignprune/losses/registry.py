"""The registry of named losses: frozen records that --help, the docs' table and the validation are made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from alignprune._checks import choice
from alignprune.losses.contract import LossSettings
from alignprune.losses.elr import ELRSettings
from alignprune.losses.gce import GCESettings
from alignprune.losses.sce import SCESettings
from alignprune.losses.smoothing import SmoothingSettings
from alignprune.losses.sop import SOPSettings


@dataclass(frozen=True)
class NamedLoss:
    """A named loss.

    Attributes:
        name: what users type.
        title: what tables print.
        settings: the loss itself, by `LossSettings.make`.
        summary: what it does, in a sentence.
        use: when it helps.
        cost: what it costs beside cross-entropy, in memory and time, for N samples of C classes.
    """

    name: str
    title: str
    settings: LossSettings
    summary: str
    use: str
    cost: str

    @property
    def source(self) -> str:
        """Where it comes from."""
        return self.settings.source


_SOP_TABLE = "Liu et al. 2022, table A.1"
_SOP_CIFAR_N = "Liu et al. 2022; values by issue 12 of the authors' repository: as on CIFAR with symmetric noise"
_ELR_CODE = "Liu et al. 2020, section 4; values by the authors' code"
_SCE_CODE = "Wang et al. 2019; values by the authors' code, train_models.py"


def _sop(of: str, use: str, lr_u: float, lr_v: float, source: str = _SOP_TABLE) -> NamedLoss:
    return NamedLoss(
        name=f"sop-{of}",
        title="SOP",
        settings=SOPSettings(lr_u, lr_v, source=source),
        summary="learns what is wrong with each label beside the network",
        use=use,
        cost="4 N (C + 1) bytes; time as cross-entropy",
    )


def _sop_plus(of: str, use: str, lr_u: float, lr_v: float, source: str = _SOP_TABLE) -> NamedLoss:
    return NamedLoss(
        name=f"sop-{of}",
        title="SOP+",
        settings=SOPSettings(lr_u, lr_v, consistency=0.9, balance=0.1, source=source),
        summary="SOP, and two views of a sample have to agree, and all classes to be used",
        use=use,
        cost="4 N (C + 1) bytes; a second forward and backward pass of every sample",
    )


def _elr(of: str, use: str, beta: float, weight: float, file: str) -> NamedLoss:
    return NamedLoss(
        name=f"elr-{of}",
        title="ELR",
        settings=ELRSettings(beta, weight, source=f"{_ELR_CODE}, {file}"),
        summary="pulls predictions towards their own running average, which formed before labels were memorised",
        use=use,
        cost="4 N C bytes, 2 N C with targets float16; time as cross-entropy",
    )


_REGISTRY = (
    _elr("cifar10", "few classes", 0.7, 3, "config_cifar10.json"),
    _elr("cifar10-asymmetric", "few classes, confused in one direction", 0.9, 1, "config_cifar10_asym.json"),
    _elr("cifar100", "many classes", 0.9, 7, "config_cifar100.json"),
    NamedLoss(
        name="gce",
        title="GCE",
        settings=GCESettings(0.7, source="Zhang and Sabuncu 2018, section 3.2, without truncation"),
        summary="lets improbable labels pull less",
        use="few classes; nothing to keep in memory",
        cost="nothing",
    ),
    NamedLoss(
        name="smoothing",
        title="Label smoothing",
        settings=SmoothingSettings(0.1, source="Wei et al. 2022; rate by the authors' code, where it is the default"),
        summary="keeps the network from being sure of any label",
        use="few wrong labels",
        cost="nothing",
    ),
    NamedLoss(
        name="negative-smoothing",
        title="Negative label smoothing",
        settings=SmoothingSettings(
            -0.2, source="Wei et al. 2022; rate own: of the authors' negative ones the nearest to 0"
        ),
        summary="punishes the classes that are not given, without a lower bound",
        use="many wrong labels, to go on from a network that cross-entropy has trained, at a small learning rate",
        cost="nothing",
    ),
    NamedLoss(
        name="sce-cifar10",
        title="SCE",
        settings=SCESettings(0.1, 1, source=_SCE_CODE),
        summary="adds the cross-entropy of label and prediction exchanged, which is bounded",
        use="few classes",
        cost="nothing",
    ),
    NamedLoss(
        name="sce-cifar100",
        title="SCE",
        settings=SCESettings(6, 0.1, source=_SCE_CODE),
        summary="adds the cross-entropy of label and prediction exchanged, which is bounded",
        use="many classes",
        cost="nothing",
    ),
    _sop_plus("cifar10-symmetric", "two views, few classes", 10, 10),
    _sop_plus("cifar10-asymmetric", "two views, few classes, confused in one direction", 10, 100),
    _sop_plus("cifar100-symmetric", "two views, many classes", 1, 10),
    _sop_plus(
        "cifar100-asymmetric",
        "two views, many classes, confused in one direction",
        0.1,
        100,
        f"readme of the authors' code, whose loss this is; {_SOP_TABLE}, has lr_u = 1 for an earlier form of it",
    ),
    _sop_plus("cifar10n", "two views, few classes, people's mistakes", 10, 10, _SOP_CIFAR_N),
    _sop_plus("cifar100n", "two views, many classes, people's mistakes", 1, 10, _SOP_CIFAR_N),
    _sop("clothing1m", "one view, few classes", 0.1, 1),
    _sop("webvision", "one view, many classes", 0.1, 1, "Prune4ReL's script for WebVision; no term of SOP+"),
)

LOSSES: Mapping[str, NamedLoss] = MappingProxyType({loss.name: loss for loss in _REGISTRY})
"""All named losses, by name."""

KINDS: Mapping[str, type[LossSettings]] = MappingProxyType(
    {type(loss.settings).__name__: type(loss.settings) for loss in _REGISTRY}
)
"""The classes of their settings, by name."""


def get(name: str) -> NamedLoss:
    """The loss of that name; an unknown one raises ValueMistake with the known ones and the nearest."""
    choice("loss", name, LOSSES)
    return LOSSES[name]


def table() -> list[dict[str, str]]:
    """One row a loss, for the docs: name, title, summary, use, cost, settings, source."""
    return [
        {
            "loss": loss.name,
            "of": loss.title,
            "what it does": loss.summary,
            "when": loss.use,
            "cost": loss.cost,
            "settings": repr(loss.settings),
            "source": loss.source,
        }
        for loss in _REGISTRY
    ]
