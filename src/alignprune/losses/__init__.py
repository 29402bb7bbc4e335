"""Losses that resist wrong labels, and compose with every method."""

from alignprune.losses.mixup import mixup_losses
from alignprune.losses.sop import SETTINGS, SOP, SOPLoss, SOPSettings

__all__ = ["SETTINGS", "SOP", "SOPLoss", "SOPSettings", "mixup_losses"]
