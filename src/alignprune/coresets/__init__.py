"""Static selection: choose once, before training, what to train on.

A proxy (a short training on the full, noisy set) collects everything once; each method is a pure function of it:

    proxy = Proxy.load("proxy.npz")
    indices = coresets.select("dual", proxy, size=15_000, seed=0)

A method is a frozen record of its settings with a `select`; its score is a function of tensors beside it.
"""

from alignprune.coresets.coverage import CCS, area_under_margin, budgets, strata
from alignprune.coresets.dynamics import (
    DUAL,
    DynUnc,
    Forgetting,
    draw,
    dual_density,
    dual_score,
    dynamic_uncertainty,
    forgetting_events,
)
from alignprune.coresets.geometry import (
    SSP,
    Moderate,
    distance_to_class_median,
    distance_to_prototype,
    spherical_kmeans,
)
from alignprune.coresets.neighbourhoods import Prune4ReL, prediction_confidence, prune4rel
from alignprune.coresets.outputs import (
    EL2N,
    GraNd,
    Margin,
    SmallLoss,
    error_norm,
    gradient_norm,
    label_loss,
    probability_margin,
)
from alignprune.coresets.proxy import Extent, Proxy
from alignprune.coresets.ranking import shares
from alignprune.coresets.registry import CORESETS, Coreset, get, select, table
from alignprune.coresets.settings import Random, Settings

__all__ = [
    "CCS",
    "CORESETS",
    "DUAL",
    "EL2N",
    "SSP",
    "Coreset",
    "DynUnc",
    "Extent",
    "Forgetting",
    "GraNd",
    "Margin",
    "Moderate",
    "Proxy",
    "Prune4ReL",
    "Random",
    "Settings",
    "SmallLoss",
    "area_under_margin",
    "budgets",
    "distance_to_class_median",
    "distance_to_prototype",
    "draw",
    "dual_density",
    "dual_score",
    "dynamic_uncertainty",
    "error_norm",
    "forgetting_events",
    "get",
    "gradient_norm",
    "label_loss",
    "prediction_confidence",
    "probability_margin",
    "prune4rel",
    "select",
    "shares",
    "spherical_kmeans",
    "strata",
    "table",
]
