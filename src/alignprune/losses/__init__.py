"""Losses that resist wrong labels, and compose with every method that chooses between epochs.

    loss = losses.get("elr-cifar100").settings.make(len(train_set), 100).to(device)
    out = loss(index, y, model(x))
    pruner.reduce(index, out.losses, record=out.recorded)

A loss is a frozen record of its settings with a `make`; its equation is in the module of its name.
"""

from alignprune.losses.contract import LossOutcome, LossSettings, SampleLoss
from alignprune.losses.elr import ELR, ELRSettings
from alignprune.losses.gce import GCE, GCESettings
from alignprune.losses.mixup import mixup_losses
from alignprune.losses.registry import KINDS, LOSSES, NamedLoss, get, table
from alignprune.losses.rows import RowLoss
from alignprune.losses.sce import SCE, SCESettings
from alignprune.losses.smoothing import Smoothing, SmoothingSettings
from alignprune.losses.sop import SOP, SOPSettings

__all__ = [
    "ELR",
    "GCE",
    "KINDS",
    "LOSSES",
    "SCE",
    "SOP",
    "ELRSettings",
    "GCESettings",
    "LossOutcome",
    "LossSettings",
    "NamedLoss",
    "RowLoss",
    "SCESettings",
    "SOPSettings",
    "SampleLoss",
    "Smoothing",
    "SmoothingSettings",
    "get",
    "mixup_losses",
    "table",
]
