"""Policies: what to keep. Evidence goes in, the next epoch's Selection comes out."""

from alignprune.policies.baselines import DynamicRandom, Full
from alignprune.policies.contract import BatchEvidence, BatchPolicy, Evidence, Policy
from alignprune.policies.divbs import DivBS
from alignprune.policies.ies import IES
from alignprune.policies.infobatch import InfoBatch
from alignprune.policies.orderdp import OrderDP
from alignprune.policies.rcap import RCAP
from alignprune.policies.repb import RePB
from alignprune.policies.robust import Robust
from alignprune.policies.seta import SeTa

__all__ = [
    "IES",
    "RCAP",
    "BatchEvidence",
    "BatchPolicy",
    "DivBS",
    "DynamicRandom",
    "Evidence",
    "Full",
    "InfoBatch",
    "OrderDP",
    "Policy",
    "RePB",
    "Robust",
    "SeTa",
]
